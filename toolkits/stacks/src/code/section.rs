//! Debug sections, read by the page as gimli asks for them: those of a C library have
//! nine megabytes, those of a browser a thousand, and one stack needs some hundred KiB
//! of them. Of a section that is compressed with zlib, the state of the decompressor is
//! kept at some places, so that reading goes on from the nearest one before; zstd is read
//! forwards.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::rc::Rc;

use agent_binaries::elf::read_vec;
use agent_binaries::mapped::Image;
use gimli::{Reader, ReaderOffsetId, RunTimeEndian};
use miniz_oxide::inflate::stream::{InflateState, inflate};
use miniz_oxide::{DataFormat, MZFlush};

use super::zstd::{self, Zstd};

/// Bytes of one page.
const PAGE: usize = 16 << 10;
/// Pages that are kept of all sections together: 2 MiB.
const KEPT: usize = 128;
/// States of the decompressor that are kept of all sections together, at 43 KiB.
const MOST_MARKS: usize = 64;
/// Of one section, and how many bytes there are between two of them at least.
const MARKS: usize = 32;
const LEAST_SPACING: usize = 128 << 10;
/// Bytes that are read and decompressed at most for all names of one command. A page
/// that is still there counts as a sixteenth.
const MOST_WORK: u64 = 1 << 30;
/// Bytes that are copied at once: the longest string.
const MOST_SLICE: usize = 64 << 10;
/// Bytes of compressed input that are read at a time.
const INPUT: usize = 16 << 10;

/// A page, by the number of its section and its own.
type Kept = ((u64, usize), Rc<[u8]>);

/// The pages of all sections of all modules.
pub(super) struct Pages {
    slots: RefCell<Vec<Option<Kept>>>,
    sections: Cell<u64>,
    marks: Cell<usize>,
    /// Bytes of the sections in zstd that are kept whole, and how many decoders of others are kept.
    kept: Cell<usize>,
    pub(super) decoders: Cell<usize>,
    work: Cell<u64>,
    /// The numbers of those that could not be read as they say.
    damaged: RefCell<BTreeSet<u64>>,
}

impl Default for Pages {
    fn default() -> Self {
        let slots = RefCell::new(vec![None; KEPT]);
        let [marks, kept, decoders] = [Cell::new(0), Cell::new(0), Cell::new(0)];
        Self { slots, sections: Cell::new(0), marks, kept, decoders, work: Cell::new(0), damaged: RefCell::default() }
    }
}

impl Pages {
    /// Whether nothing more is read, since that would take too long.
    pub(super) fn is_exhausted(&self) -> bool {
        self.work.get() > MOST_WORK
    }

    /// The number of the next section.
    pub(super) fn next(&self) -> u64 {
        self.sections.get()
    }

    /// Whether one of `sections` could not be read as it says: it is cut, or not as its compression is.
    pub(super) fn are_damaged(&self, sections: &Range<u64>) -> bool {
        self.damaged.borrow().range(sections.clone()).next().is_some()
    }

    /// Counts bytes that were read or decompressed.
    ///
    /// # Errors
    ///
    /// When that is enough for one command.
    pub(super) fn count(&self, bytes: usize) -> gimli::Result<()> {
        self.work.set(self.work.get().saturating_add(bytes as u64));
        if self.is_exhausted() { Err(gimli::Error::Io) } else { Ok(()) }
    }
}

/// One section.
pub(super) struct Section<'r> {
    pages: Rc<Pages>,
    number: u64,
    source: Image<'r>,
    /// Where its bytes are in the source, as they stand there.
    offset: u64,
    /// How many there are when they are not compressed.
    size: usize,
    form: Form<'r>,
}

/// How its bytes stand in the source.
enum Form<'r> {
    Plain,
    Zlib(RefCell<Packed>),
    Zstd(Box<RefCell<Zstd<'r>>>),
}

impl<'r> Section<'r> {
    /// The `size` bytes at `offset`.
    pub(super) fn plain(pages: &Rc<Pages>, source: Image<'r>, offset: u64, size: usize) -> Rc<Self> {
        Self::new(pages, source, offset, size, Form::Plain)
    }

    /// What `packed` bytes at `offset`, compressed with zlib, say in `size` bytes.
    pub(super) fn zlib(pages: &Rc<Pages>, source: Image<'r>, offset: u64, packed: u64, size: usize) -> Rc<Self> {
        Self::new(pages, source, offset, size, Form::Zlib(RefCell::new(Packed::new(packed, size))))
    }

    /// The same for zstd.
    pub(super) fn zstd(pages: &Rc<Pages>, source: Image<'r>, offset: u64, packed: u64, size: usize) -> Rc<Self> {
        let room = zstd::MOST_KEPT.saturating_sub(pages.kept.get());
        let section = Zstd::new(Rc::clone(pages), source.clone(), offset, packed, size, room);
        if section.keeps() {
            pages.kept.set(pages.kept.get() + size);
        }
        Self::new(pages, source, offset, size, Form::Zstd(Box::new(RefCell::new(section))))
    }

    fn new(pages: &Rc<Pages>, source: Image<'r>, offset: u64, size: usize, form: Form<'r>) -> Rc<Self> {
        let number = pages.sections.get();
        pages.sections.set(number + 1);
        Rc::new(Self { pages: Rc::clone(pages), number, source, offset, size, form })
    }

    /// All of it, to be read.
    pub(super) fn reader(self: &Rc<Self>) -> Bytes<'r> {
        Bytes { section: Rc::clone(self), at: 0, end: self.size, page: None }
    }

    /// The page `number`; it is shorter than [`PAGE`] at the end.
    fn page(&self, number: usize) -> gimli::Result<Rc<[u8]>> {
        let key = (self.number, number);
        let slot = (number.wrapping_mul(31) ^ (self.number as usize).wrapping_mul(0x9e37)) % KEPT;
        if let Some((kept, page)) = &self.pages.slots.borrow()[slot]
            && *kept == key
        {
            self.pages.count(PAGE / 16)?;
            return Ok(Rc::clone(page));
        }
        self.pages.count(PAGE)?;
        let start = number * PAGE;
        let wanted = PAGE.min(self.size.saturating_sub(start));
        let bytes = self.bytes(start, wanted);
        // What was given up is told elsewhere.
        if bytes.as_ref().is_ok_and(|bytes| bytes.len() < wanted) || (bytes.is_err() && !self.pages.is_exhausted()) {
            self.pages.damaged.borrow_mut().insert(self.number);
        }
        let bytes = bytes?;
        let page: Rc<[u8]> = bytes.into();
        self.pages.slots.borrow_mut()[slot] = Some((key, Rc::clone(&page)));
        Ok(page)
    }

    /// `wanted` bytes at `start`, or as many as there are.
    fn bytes(&self, start: usize, wanted: usize) -> gimli::Result<Vec<u8>> {
        match &self.form {
            Form::Plain => {
                let at = self.offset.checked_add(start as u64).ok_or(gimli::Error::Io)?;
                read_vec(&self.source, at, wanted).map_err(|_| gimli::Error::Io)
            }
            Form::Zstd(packed) => packed.borrow_mut().read(start, wanted),
            Form::Zlib(packed) => packed.borrow_mut().read(start, wanted, &self.pages, |at, most| {
                read_vec(&self.source, self.offset.saturating_add(at), most).unwrap_or_default()
            }),
        }
    }
}

/// A place in the stream.
#[derive(Clone)]
struct Mark {
    state: Box<InflateState>,
    input: u64,
    output: usize,
}

/// A section that is compressed.
struct Packed {
    size: u64,
    spacing: usize,
    /// Where reading has come to.
    now: Mark,
    /// By their output.
    marks: Vec<Mark>,
}

impl Packed {
    fn new(packed: u64, size: usize) -> Self {
        let start = Mark { state: InflateState::new_boxed(DataFormat::ZLibIgnoreChecksum), input: 0, output: 0 };
        let spacing = (size / MARKS).max(LEAST_SPACING);
        Self { size: packed, spacing, now: start, marks: Vec::new() }
    }

    /// `wanted` bytes of the output at `start`, or as many as there are; `input` reads
    /// the compressed bytes.
    fn read(
        &mut self,
        start: usize,
        wanted: usize,
        pages: &Pages,
        input: impl Fn(u64, usize) -> Vec<u8>,
    ) -> gimli::Result<Vec<u8>> {
        let nearest = self.marks.iter().rev().find(|mark| mark.output <= start);
        let nearest_at = nearest.map_or(0, |mark| mark.output);
        if self.now.output > start || self.now.output < nearest_at {
            self.now = match nearest {
                Some(mark) => mark.clone(),
                None => Mark { state: InflateState::new_boxed(DataFormat::ZLibIgnoreChecksum), input: 0, output: 0 },
            };
        }
        let end = start.saturating_add(wanted);
        let mut output = vec![0; PAGE];
        let mut kept = Vec::with_capacity(wanted);
        let mut packed = Vec::new();
        while self.now.output < end {
            if packed.is_empty() {
                let left = self.size.saturating_sub(self.now.input);
                packed = input(self.now.input, usize::try_from(left).unwrap_or(INPUT).min(INPUT));
            }
            let room = (end - self.now.output).min(PAGE);
            let result = inflate(&mut self.now.state, &packed, &mut output[..room], MZFlush::None);
            let made = result.bytes_written;
            // A block may be empty, and be followed by others: what goes in counts too.
            pages.count(made + result.bytes_consumed)?;
            let from = start.saturating_sub(self.now.output).min(made);
            kept.extend_from_slice(&output[from..made]);
            packed.drain(..result.bytes_consumed);
            self.now.input += result.bytes_consumed as u64;
            self.now.output += made;
            if made == 0 && result.bytes_consumed == 0 {
                // It ends, or is not as zlib is.
                break;
            }
            self.mark(pages);
        }
        Ok(kept)
    }

    /// Keeps the place that was come to, if it is far from the last one.
    fn mark(&mut self, pages: &Pages) {
        let last = self.marks.last().map_or(0, |mark| mark.output);
        if self.now.output >= last.saturating_add(self.spacing) && pages.marks.get() < MOST_MARKS {
            pages.marks.set(pages.marks.get() + 1);
            self.marks.push(self.now.clone());
        }
    }
}

/// A part of a section, as gimli reads it.
#[derive(Clone)]
pub(super) struct Bytes<'r> {
    section: Rc<Section<'r>>,
    at: usize,
    end: usize,
    /// The page that was read last, by its number.
    page: Option<(usize, Rc<[u8]>)>,
}

impl fmt::Debug for Bytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bytes({}, {}..{})", self.section.number, self.at, self.end)
    }
}

impl Bytes<'_> {
    /// What is left of the page at `at`.
    fn piece(&mut self, at: usize) -> gimli::Result<&[u8]> {
        let number = at / PAGE;
        if self.page.as_ref().is_none_or(|(kept, _)| *kept != number) {
            self.page = Some((number, self.section.page(number)?));
        }
        let page = self.page.as_ref().map_or(&[][..], |(_, page)| page);
        // The file may have been cut since.
        page.get(at % PAGE..).filter(|piece| !piece.is_empty()).ok_or(gimli::Error::Io)
    }

    fn end_of_file<T>(&self) -> gimli::Result<T> {
        Err(gimli::Error::UnexpectedEof(self.offset_id()))
    }
}

impl Reader for Bytes<'_> {
    type Endian = RunTimeEndian;
    type Offset = usize;

    fn endian(&self) -> RunTimeEndian {
        RunTimeEndian::Little
    }

    fn len(&self) -> usize {
        self.end - self.at
    }

    fn empty(&mut self) {
        self.end = self.at;
    }

    fn truncate(&mut self, len: usize) -> gimli::Result<()> {
        if len > self.len() {
            return self.end_of_file();
        }
        self.end = self.at + len;
        Ok(())
    }

    fn offset_from(&self, base: &Self) -> usize {
        self.at.saturating_sub(base.at)
    }

    fn offset_id(&self) -> ReaderOffsetId {
        ReaderOffsetId(self.section.number << 48 | self.at as u64)
    }

    fn lookup_offset_id(&self, id: ReaderOffsetId) -> Option<usize> {
        let at = (id.0 & ((1 << 48) - 1)) as usize;
        (id.0 >> 48 == self.section.number && (self.at..=self.end).contains(&at)).then(|| at - self.at)
    }

    fn find(&self, byte: u8) -> gimli::Result<usize> {
        let mut seen = self.clone();
        let mut at = self.at;
        while at < self.end {
            let piece = seen.piece(at)?;
            let piece = &piece[..piece.len().min(self.end - at)];
            match piece.iter().position(|one| *one == byte) {
                Some(found) => return Ok(at + found - self.at),
                None => at += piece.len(),
            }
        }
        self.end_of_file()
    }

    fn skip(&mut self, len: usize) -> gimli::Result<()> {
        if len > self.len() {
            return self.end_of_file();
        }
        self.at += len;
        Ok(())
    }

    fn split(&mut self, len: usize) -> gimli::Result<Self> {
        if len > self.len() {
            return self.end_of_file();
        }
        let mut first = self.clone();
        first.end = self.at + len;
        self.at += len;
        Ok(first)
    }

    fn to_slice(&self) -> gimli::Result<Cow<'_, [u8]>> {
        if self.len() > MOST_SLICE {
            return Err(gimli::Error::Io);
        }
        let mut bytes = vec![0; self.len()];
        self.clone().read_slice(&mut bytes)?;
        Ok(Cow::Owned(bytes))
    }

    fn to_string(&self) -> gimli::Result<Cow<'_, str>> {
        let bytes = self.to_slice()?.into_owned();
        String::from_utf8(bytes).map(Cow::Owned).map_err(|_| gimli::Error::BadUtf8)
    }

    fn to_string_lossy(&self) -> gimli::Result<Cow<'_, str>> {
        Ok(Cow::Owned(String::from_utf8_lossy(&self.to_slice()?).into_owned()))
    }

    fn read_slice(&mut self, buffer: &mut [u8]) -> gimli::Result<()> {
        if buffer.len() > self.len() {
            return self.end_of_file();
        }
        let mut done = 0;
        while done < buffer.len() {
            let piece = self.piece(self.at)?;
            let count = piece.len().min(buffer.len() - done);
            buffer[done..done + count].copy_from_slice(&piece[..count]);
            done += count;
            self.at += count;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::sync::Arc;

    use super::*;

    fn read(bytes: &Bytes<'_>, at: usize, length: usize) -> gimli::Result<Vec<u8>> {
        let mut rest = bytes.clone();
        rest.skip(at)?;
        let mut buffer = vec![0; length];
        rest.read_slice(&mut buffer).map(|()| buffer)
    }

    #[test]
    fn a_compressed_section_is_read_at_any_place() {
        let plain: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 27) as u8).collect();
        let mut packer = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        packer.write_all(&plain).expect("packed");
        let packed = packer.finish().expect("packed");
        let pages = Rc::new(Pages::default());
        let size = packed.len() as u64;
        let section = Section::zlib(&pages, Image::Copy(Arc::new(packed)), 0, size, plain.len());
        let bytes = section.reader();
        let mut at = 12_345;
        for _ in 0..200 {
            at = (at * 7919 + 17) % (plain.len() - 40_000);
            assert_eq!(read(&bytes, at, 33_000).expect("there"), &plain[at..at + 33_000], "{at}");
        }
        // From the nearest place, and not from the start: a page each, some hundred KiB before it.
        assert!(pages.work.get() < 200 << 20 >> 1, "{}", pages.work.get());
        assert!(pages.marks.get() <= MARKS);
        assert!(read(&bytes, plain.len() - 1, 2).is_err());
    }

    #[test]
    fn a_section_in_zstd_is_read_at_any_place() {
        let plain: Vec<u8> = (0..600_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 27) as u8).collect();
        let packed = ruzstd::encoding::compress_to_vec(&plain[..], ruzstd::encoding::CompressionLevel::Fastest);
        let (pages, size) = (Rc::new(Pages::default()), packed.len() as u64);
        // Other bytes stand around it.
        let file = Arc::new([&[1; 33][..], &packed, &[2; 44]].concat());
        let mut worked = Vec::new();
        // Kept as it comes; and where there is no room for that.
        for kept in [0, zstd::MOST_KEPT] {
            let pages = Rc::new(Pages::default());
            pages.kept.set(kept);
            let section = Section::zstd(&pages, Image::Copy(Arc::clone(&file)), 33, size, plain.len());
            let bytes = section.reader();
            let mut at = 12_345;
            for _ in 0..50 {
                at = (at * 7919 + 17) % (plain.len() - 40_000);
                assert_eq!(read(&bytes, at, 33_000).expect("there"), &plain[at..at + 33_000], "{at}");
            }
            assert!(read(&bytes, plain.len() - 1, 2).is_err());
            worked.push(pages.work.get());
        }
        assert!(worked[0] * 2 < worked[1], "{worked:?}");
        // Cut, and changed: an error, or other bytes, and no more.
        let cut =
            Section::zstd(&pages, Image::Copy(Arc::new(packed[..size as usize / 2].to_vec())), 0, size, plain.len());
        assert!(read(&cut.reader(), plain.len() - 100, 100).is_err());
        assert_eq!(read(&cut.reader(), 1000, 100).expect("it comes before"), &plain[1000..1100]);
        for at in (0..packed.len()).step_by(packed.len() / 200) {
            let mut packed = packed.clone();
            packed[at] ^= 0x55;
            let section = Section::zstd(&pages, Image::Copy(Arc::new(packed)), 0, size, plain.len());
            let _ = read(&section.reader(), plain.len() - 100, 100);
        }
        // A frame with a window of a gigabyte (RFC 8878, 3.1.1.1.2).
        let header = [0x28, 0xb5, 0x2f, 0xfd, 0, 20 << 3, 0, 0, 0, 0];
        let section = Section::zstd(&pages, Image::Copy(Arc::new(header.to_vec())), 0, 10, 1 << 40);
        assert!(read(&section.reader(), 0, 1).is_err());
    }

    #[test]
    fn work_has_an_end() {
        let pages = Rc::new(Pages::default());
        let section = Section::plain(&pages, Image::Copy(Arc::new(vec![1; 1 << 20])), 0, 1 << 20);
        let bytes = section.reader();
        let mut reads = 0_u64;
        while read(&bytes, (reads as usize * 17 * PAGE) % (1 << 19), 1).is_ok() {
            reads += 1;
        }
        assert!(pages.is_exhausted() && reads > 1000, "{reads}");
    }

    #[test]
    fn blocks_without_content_have_an_end() {
        // Most of the work is done already.
        let left = 4 << 20;
        // A frame of zstd with a small window, then blocks of nothing without end (RFC 8878, 3.1.1); the same for zlib.
        let mut zstd = vec![0; left];
        zstd[..6].copy_from_slice(&[0x28, 0xb5, 0x2f, 0xfd, 0, 0]);
        let mut zlib = vec![0x78, 0x01];
        while zlib.len() < 2 * left {
            zlib.extend_from_slice(&[0, 0, 0, 0xff, 0xff]);
        }
        for (packed, section) in [(zstd, Section::zstd as fn(&_, _, _, _, _) -> _), (zlib, Section::zlib)] {
            let (pages, size) = (Rc::new(Pages::default()), packed.len() as u64);
            pages.work.set(MOST_WORK - left as u64);
            let section: Rc<Section<'_>> = section(&pages, Image::Copy(Arc::new(packed)), 0, size, 1 << 20);
            assert!(read(&section.reader(), 0, 1).is_err());
            assert!(pages.is_exhausted(), "{}", pages.work.get());
        }
    }

    #[test]
    fn few_decoders_are_kept_at_once() {
        let plain = vec![b'x'; 600_000];
        let packed = ruzstd::encoding::compress_to_vec(&plain[..], ruzstd::encoding::CompressionLevel::Fastest);
        let (pages, size) = (Rc::new(Pages::default()), packed.len() as u64);
        let image = Image::Copy(Arc::new(packed));
        let sections: Vec<_> = (0..20).map(|_| Section::zstd(&pages, image.clone(), 0, size, plain.len())).collect();
        for at in [0, 200_000, 400_000] {
            for section in &sections {
                assert_eq!(read(&section.reader(), at, 10).expect("there"), &plain[..10]);
                assert!((1..=zstd::MOST_DECODERS).contains(&pages.decoders.get()), "{}", pages.decoders.get());
            }
        }
        // Those that have come to their end are given back, and so are the others.
        for section in &sections {
            assert_eq!(read(&section.reader(), plain.len() - 10, 10).expect("there"), &plain[..10]);
        }
        assert_eq!(pages.decoders.get(), 0);
        assert!(read(&sections[0].reader(), 0, 10).is_ok());
        drop(sections);
        assert_eq!(pages.decoders.get(), 0);
    }

    #[test]
    fn what_is_not_as_it_says_is_told_and_what_is_too_much_is_not_told_so() {
        let plain = vec![b'x'; 100_000];
        let mut packer = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        packer.write_all(&plain).expect("packed");
        let zlib = packer.finish().expect("packed");
        let zstd = ruzstd::encoding::compress_to_vec(&plain[..], ruzstd::encoding::CompressionLevel::Fastest);
        let read_all = |section: &Rc<Section<'_>>| read(&section.reader(), 0, plain.len()).is_ok();
        let pages = Rc::new(Pages::default());
        let made: [fn(&_, _, _, _, _) -> Rc<Section<'static>>; 2] = [Section::zlib, Section::zstd];
        for (packed, make) in [zlib, zstd].into_iter().zip(made) {
            let cut = &packed[..packed.len() / 2];
            for (bytes, is_whole) in [(packed.as_slice(), true), (cut, false), (&[7; 40], false), (&[], false)] {
                let first = pages.next();
                let section = make(&pages, Image::Copy(Arc::new(bytes.to_vec())), 0, bytes.len() as u64, plain.len());
                assert!(!pages.are_damaged(&(first..pages.next())), "before it is read");
                assert_eq!((read_all(&section), pages.are_damaged(&(first..pages.next()))), (is_whole, !is_whole));
            }
        }
        let first = pages.next();
        let section = Section::plain(&pages, Image::Copy(Arc::new(plain.clone())), 0, plain.len());
        pages.work.set(MOST_WORK + 1);
        assert!(!read_all(&section) && !pages.are_damaged(&(first..pages.next())));
    }

    #[test]
    fn what_is_not_as_it_says_is_an_error_and_no_more() {
        let pages = Rc::new(Pages::default());
        // It is shorter than it says, and garbage.
        for section in [
            Section::plain(&pages, Image::Copy(Arc::new(vec![0; 100])), 50, 1 << 40),
            Section::zlib(&pages, Image::Copy(Arc::new(vec![7; 100])), 0, 100, 1 << 40),
            Section::zstd(&pages, Image::Copy(Arc::new(vec![7; 100])), 0, 100, 1 << 40),
            Section::plain(&pages, Image::Copy(Arc::new(vec![0; 100])), u64::MAX - 3, 100),
        ] {
            let bytes = section.reader();
            assert!(read(&bytes, 60, 10).is_err());
            assert!(bytes.find(1).is_err());
            assert!(bytes.to_slice().is_err());
            assert!(read(&bytes, section.size, 1).is_err());
        }
    }
}
