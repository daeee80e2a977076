//! Where the bytes of an ELF image come from: a slice, a file, or the memory of
//! a process. The readers above ask for ranges and never for the whole.

use std::io;
use std::sync::Arc;

/// Bytes that can be read at any offset, as [`pread(2)`] does.
///
/// The crate that owns the descriptor implements this; everything in
/// [`crate::elf`] works on it, so a file of a gigabyte costs the pages that
/// were asked for.
///
/// [`pread(2)`]: https://man7.org/linux/man-pages/man2/pread.2.html
pub trait Source {
    /// The size in bytes. A source that does not know (a module in the memory
    /// of a process) returns an upper bound, and its reads come back short.
    fn len(&self) -> u64;

    /// Reads into `buf` from `offset` and returns how many bytes were read.
    /// Zero means that there is nothing at `offset`.
    ///
    /// # Errors
    ///
    /// What the kernel said (`EIO`, `EFAULT`, …). The readers note it as a
    /// [`Problem`](crate::elf::Problem) of the part that they were reading.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// True where [`Source::len`] is zero.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Source for [u8] {
    fn len(&self) -> u64 {
        <[u8]>::len(self) as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let Some(rest) = usize::try_from(offset).ok().and_then(|at| self.get(at..)) else {
            return Ok(0);
        };
        let count = rest.len().min(buf.len());
        buf[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }
}

impl Source for Vec<u8> {
    fn len(&self) -> u64 {
        Source::len(self.as_slice())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.as_slice().read_at(offset, buf)
    }
}

/// Passes a [`Source`] through a pointer type.
macro_rules! source_through {
    ($($pointer:ty),*) => {$(
        impl<T: Source + ?Sized> Source for $pointer {
            fn len(&self) -> u64 {
                (**self).len()
            }

            fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
                (**self).read_at(offset, buf)
            }
        }
    )*};
}
source_through!(&T, Box<T>, Arc<T>);

/// How much [`read_vec`] asks for at once. A hostile size in a header then
/// costs at most this much more than the bytes that are really there.
const STEP: usize = 256 * 1024;

/// Fills `buf` from `offset`, over as many reads as it takes.
///
/// # Errors
///
/// `UnexpectedEof` where the source ends before `buf` is full, else what the
/// source said.
pub fn read_exact<S: Source + ?Sized>(source: &S, offset: u64, buf: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while done < buf.len() {
        let at = offset.checked_add(done as u64).ok_or(io::ErrorKind::UnexpectedEof)?;
        match source.read_at(at, &mut buf[done..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => done += count.min(buf.len() - done),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads up to `len` bytes at `offset`; a source that ends earlier gives less.
/// Allocates only as far as bytes arrive.
///
/// # Errors
///
/// What the source said at the first byte. An error after some bytes ends the
/// read as the end of the source does.
pub fn read_vec<S: Source + ?Sized>(source: &S, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let there = source.len().saturating_sub(offset);
    let len = len.min(usize::try_from(there).unwrap_or(usize::MAX));
    let mut bytes = Vec::new();
    while bytes.len() < len {
        let start = bytes.len();
        let Some(at) = offset.checked_add(start as u64) else {
            break;
        };
        bytes.resize(start + (len - start).min(STEP), 0);
        let count = match source.read_at(at, &mut bytes[start..]) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                bytes.truncate(start);
                continue;
            }
            Err(error) if start == 0 => return Err(error),
            Err(_) => 0,
        };
        bytes.truncate(start + count);
        if count == 0 {
            break;
        }
    }
    Ok(bytes)
}

/// Reads the NUL-terminated string at `offset`, at most `limit` bytes of it.
/// `None` where there is no terminator within `limit`.
///
/// # Errors
///
/// What the source said at the first byte.
pub fn read_cstr<S: Source + ?Sized>(source: &S, offset: u64, limit: usize) -> io::Result<Option<String>> {
    let mut take = 128.min(limit);
    loop {
        let bytes = read_vec(source, offset, take)?;
        if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
            return Ok(Some(String::from_utf8_lossy(&bytes[..end]).into_owned()));
        }
        if bytes.len() < take || take == limit {
            return Ok(None);
        }
        take = (take * 8).min(limit);
    }
}

/// A source whose first bytes were read once, because the headers, the
/// interpreter, and the notes of most files lie there together.
#[derive(Debug)]
pub(crate) struct Headed<S> {
    inner: S,
    head: Vec<u8>,
}

/// How many of the first bytes [`Headed`] keeps while a file is parsed.
const HEAD: usize = 4096;

impl<S: Source> Headed<S> {
    pub(crate) fn new(inner: S) -> io::Result<Self> {
        let head = read_vec(&inner, 0, HEAD)?;
        Ok(Self { inner, head })
    }
}

impl<S: Source> Source for Headed<S> {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let end = offset.saturating_add(buf.len() as u64);
        if end <= self.head.len() as u64 {
            return self.head.as_slice().read_at(offset, buf);
        }
        self.inner.read_at(offset, buf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives at most three bytes a read, as a pipe-backed file may.
    struct Short(Vec<u8>);

    impl Source for Short {
        fn len(&self) -> u64 {
            u64::MAX
        }

        fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
            let take = buf.len().min(3);
            self.0.read_at(offset, &mut buf[..take])
        }
    }

    #[test]
    fn gathers_short_reads() {
        let source = Short((0..100).collect());
        let mut buf = [0; 10];
        read_exact(&source, 5, &mut buf).unwrap();
        assert_eq!(buf, [5, 6, 7, 8, 9, 10, 11, 12, 13, 14]);
        assert_eq!(read_vec(&source, 90, 1 << 40).unwrap(), (90..100).collect::<Vec<u8>>());
    }

    #[test]
    fn refuses_to_run_past_the_end() {
        let bytes = [1_u8, 2, 3];
        let mut buf = [0; 2];
        assert!(read_exact(&bytes[..], 2, &mut buf).is_err());
        assert!(read_exact(&bytes[..], u64::MAX, &mut buf).is_err());
        assert_eq!(read_vec(&bytes[..], 2, usize::MAX).unwrap(), [3]);
        assert!(read_vec(&bytes[..], u64::MAX, 9).unwrap().is_empty());
    }

    #[test]
    fn reads_a_string_only_with_its_terminator() {
        let bytes = b"libc.so.6\0tail";
        assert_eq!(read_cstr(&bytes[..], 0, 64).unwrap().as_deref(), Some("libc.so.6"));
        assert_eq!(read_cstr(&bytes[..], 10, 64).unwrap(), None);
        assert_eq!(read_cstr(&bytes[..], 0, 4).unwrap(), None);
    }
}
