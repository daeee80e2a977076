//! The database of rpm, as rpm 4.16 and later keep it: a table of package headers in an
//! SQLite file (`rpmdb.sqlite`).
//!
//! Of SQLite's format (<https://www.sqlite.org/fileformat2.html>) just what a walk over
//! one table needs, with bounds on every count, since the file is the target's to
//! forge. A header is an index of tags and their values (rpm, "RPM v4 header format").

use std::collections::BTreeMap;

use agent_model::Text;

use super::{Owners, Package};

/// Where it is: of older and of newer distributions.
pub const DATABASES: [&[u8]; 2] = [b"/var/lib/rpm/rpmdb.sqlite", b"/usr/lib/sysimage/rpm/rpmdb.sqlite"];

/// The most pages that are read of one database, and the most bytes of one header.
const MOST_PAGES: usize = 1 << 17;
const MOST_HEADER: usize = 32 << 20;
/// The most tags of a header, and the deepest tree of pages.
const MOST_TAGS: usize = 4096;
const DEEPEST: usize = 20;

/// Reads at an offset, as pread(2) does; `None` when it failed.
pub type ReadAt<'a> = &'a mut dyn FnMut(u64, &mut [u8]) -> Option<usize>;

/// The owners of `wanted`: names that a database may have, each with the path that
/// was asked for.
///
/// # Errors
///
/// What is wrong with the database. What was found before is lost: half of a database
/// says nothing of the other half.
pub fn owners(read: ReadAt<'_>, wanted: &BTreeMap<Vec<u8>, Vec<u8>>) -> Result<Owners, &'static str> {
    let mut database = Database::open(read)?;
    let mut root = None;
    database.rows(1, &mut |record| {
        let columns = columns(record)?;
        let text = |at: usize| columns.get(at).copied().unwrap_or_default();
        if text(0) == b"table" && text(1) == b"Packages" {
            root = u32::try_from(text(3).iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte))).ok();
        }
        Some(())
    })?;
    let root = root.ok_or("it has no table of packages")?;
    let mut owners = Owners::new();
    database.rows(root, &mut |record| {
        let columns = columns(record)?;
        files(columns.get(1)?, wanted, &mut owners);
        Some(())
    })?;
    Ok(owners)
}

struct Database<'a> {
    read: ReadAt<'a>,
    page_bytes: usize,
    usable: usize,
    left: usize,
}

impl<'a> Database<'a> {
    fn open(read: ReadAt<'a>) -> Result<Self, &'static str> {
        let mut header = [0; 100];
        if read(0, &mut header) != Some(100) || !header.starts_with(b"SQLite format 3\0") {
            return Err("it is no SQLite database");
        }
        let page_bytes = match u16::from_be_bytes([header[16], header[17]]) {
            1 => 65536,
            size if size >= 512 && size.is_power_of_two() => usize::from(size),
            _ => return Err("its page size is none"),
        };
        let usable = page_bytes - usize::from(header[20]);
        if usable < 480 {
            return Err("its page size is none");
        }
        Ok(Self { read, page_bytes, usable, left: MOST_PAGES })
    }

    fn page(&mut self, number: u32) -> Result<Vec<u8>, &'static str> {
        self.left = self.left.checked_sub(1).ok_or("it has too many pages")?;
        let mut page = vec![0; self.page_bytes];
        let at = u64::from(number.checked_sub(1).ok_or("a page of it is missing")?) * self.page_bytes as u64;
        let got = (self.read)(at, &mut page);
        if got == Some(self.page_bytes) { Ok(page) } else { Err("a page of it is missing") }
    }

    /// Hands each record of the table at page `root` to `each`.
    fn rows(&mut self, root: u32, each: &mut dyn FnMut(&[u8]) -> Option<()>) -> Result<(), &'static str> {
        let mut open = vec![(root, 0)];
        while let Some((number, depth)) = open.pop() {
            let page = self.page(number)?;
            // The first page begins after the header of the file.
            let at = if number == 1 { 100 } else { 0 };
            let kind = page[at];
            let cells = usize::from(be16(&page, at + 3).ok_or(BROKEN)?);
            let pointers = at + if kind == INTERIOR { 12 } else { 8 };
            if depth > DEEPEST || !matches!(kind, INTERIOR | LEAF) {
                return Err(BROKEN);
            }
            if kind == INTERIOR {
                open.push((be32(&page, at + 8).ok_or(BROKEN)?, depth + 1));
            }
            for cell in (0..cells).rev() {
                let cell = usize::from(be16(&page, pointers + cell * 2).ok_or(BROKEN)?);
                if kind == INTERIOR {
                    open.push((be32(&page, cell).ok_or(BROKEN)?, depth + 1));
                } else {
                    let record = self.record(&page, cell)?;
                    each(&record).ok_or("a record of it is broken")?;
                }
            }
            if open.len() > MOST_PAGES {
                return Err(BROKEN);
            }
        }
        Ok(())
    }

    /// The payload of the cell at `cell` of a leaf, with what spills over.
    fn record(&mut self, page: &[u8], cell: usize) -> Result<Vec<u8>, &'static str> {
        let mut rest = page.get(cell..).ok_or(BROKEN)?;
        let size = usize::try_from(varint(&mut rest).ok_or(BROKEN)?).unwrap_or(usize::MAX);
        varint(&mut rest).ok_or(BROKEN)?;
        if size > MOST_HEADER {
            return Err("a header of it is too large");
        }
        // "B-tree Cell Format": how much of it is here.
        let (most, least) = (self.usable - 35, (self.usable - 12) * 32 / 255 - 23);
        let spilled = least + (size.wrapping_sub(least)) % (self.usable - 4);
        let here = if size <= most {
            size
        } else if spilled <= most {
            spilled
        } else {
            least
        };
        let mut record = rest.get(..here).ok_or(BROKEN)?.to_vec();
        let mut next = if here < size { be32(rest, here).ok_or(BROKEN)? } else { 0 };
        while record.len() < size {
            let page = self.page(next)?;
            next = be32(&page, 0).ok_or(BROKEN)?;
            let more = (size - record.len()).min(self.usable - 4);
            record.extend_from_slice(page.get(4..4 + more).ok_or(BROKEN)?);
        }
        Ok(record)
    }
}

/// What is said of a page or a cell that breaks the format.
const BROKEN: &str = "a page of it is broken";
/// Kinds of pages of a table.
const INTERIOR: u8 = 5;
const LEAF: u8 = 13;

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes)
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_be_bytes)
}

/// A number of one to nine bytes.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for at in 0..9 {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        if at == 8 {
            return Some(value << 8 | u64::from(*byte));
        }
        value = value << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            break;
        }
    }
    Some(value)
}

/// The columns of a record, as bytes: numbers as they stand, big-endian.
fn columns(record: &[u8]) -> Option<Vec<&[u8]>> {
    let mut header = record;
    let length = usize::try_from(varint(&mut header)?).ok()?;
    let taken = record.len() - header.len();
    let mut kinds = record.get(taken..length)?;
    let mut values = record.get(length..)?;
    let mut columns = Vec::new();
    while !kinds.is_empty() && columns.len() < 16 {
        let size = match varint(&mut kinds)? {
            kind @ 0..=4 => kind,
            5 => 6,
            6 | 7 => 8,
            8 | 9 => 0,
            kind => (kind.checked_sub(12)?) / 2,
        };
        let (value, rest) = values.split_at_checked(usize::try_from(size).ok()?)?;
        columns.push(value);
        values = rest;
    }
    Some(columns)
}

/// Tags of a header (rpmtag.h) and their types.
mod tag {
    pub(super) const NAME: u32 = 1000;
    pub(super) const VERSION: u32 = 1001;
    pub(super) const RELEASE: u32 = 1002;
    pub(super) const EPOCH: u32 = 1003;
    pub(super) const ARCH: u32 = 1022;
    pub(super) const SOURCE: u32 = 1044;
    pub(super) const DIRECTORY_INDEXES: u32 = 1116;
    pub(super) const BASE_NAMES: u32 = 1117;
    pub(super) const DIRECTORY_NAMES: u32 = 1118;
}

/// A header: where its tags are.
struct Header<'a> {
    index: &'a [u8],
    data: &'a [u8],
}

impl<'a> Header<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let tags = usize::try_from(be32(bytes, 0)?).ok().filter(|tags| *tags <= MOST_TAGS)?;
        let (index, data) = bytes.get(8..)?.split_at_checked(tags * 16)?;
        Some(Self { index, data })
    }

    /// The values of `tag`, and how many there are.
    fn find(&self, tag: u32) -> Option<(&'a [u8], usize)> {
        let entry = self.index.chunks_exact(16).find(|entry| be32(entry, 0) == Some(tag))?;
        let at = usize::try_from(be32(entry, 8)?).ok()?;
        Some((self.data.get(at..)?, usize::try_from(be32(entry, 12)?).ok()?))
    }

    fn strings(&self, tag: u32) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let (data, count) = self.find(tag).unwrap_or_default();
        data.split(|byte| *byte == 0).take(count)
    }

    fn string(&self, tag: u32) -> Option<&'a [u8]> {
        self.strings(tag).next()
    }
}

/// Adds the files of the package of a header that are wanted.
fn files(bytes: &[u8], wanted: &BTreeMap<Vec<u8>, Vec<u8>>, owners: &mut Owners) {
    let Some(header) = Header::parse(bytes) else { return };
    let Some((indexes, _)) = header.find(tag::DIRECTORY_INDEXES) else { return };
    let directories: Vec<&[u8]> = header.strings(tag::DIRECTORY_NAMES).collect();
    let mut package = None;
    for (at, name) in header.strings(tag::BASE_NAMES).enumerate() {
        let index = be32(indexes, at * 4).and_then(|index| usize::try_from(index).ok());
        let Some(directory) = index.and_then(|index| directories.get(index)) else { return };
        let Some(asked) = wanted.get(&[directory, name].concat()) else { continue };
        let package = package.get_or_insert_with(|| describe(&header));
        owners.insert(asked.clone(), package.clone());
    }
}

fn describe(header: &Header<'_>) -> Package {
    let text = |tag| header.string(tag).map(Text::from_bytes);
    let version = header.string(tag::VERSION).map(|version| {
        let epoch = header.find(tag::EPOCH).and_then(|(data, _)| be32(data, 0));
        let mut full = epoch.map_or_else(Vec::new, |epoch| format!("{epoch}:").into_bytes());
        full.extend_from_slice(version);
        if let Some(release) = header.string(tag::RELEASE) {
            full.push(b'-');
            full.extend_from_slice(release);
        }
        Text::from_bytes(&full)
    });
    let source = text(tag::SOURCE).filter(|source| source.as_str() != "(none)");
    Package {
        manager: "rpm",
        name: text(tag::NAME).unwrap_or_default(),
        version,
        architecture: text(tag::ARCH),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_sqlite_have_one_to_nine_bytes() {
        for (bytes, value) in [(&[0x07][..], 7), (&[0x81, 0x00], 128), (&[0xff; 9], u64::MAX)] {
            let mut rest = bytes;
            assert_eq!((varint(&mut rest), rest.len()), (Some(value), 0));
        }
        assert_eq!(varint(&mut &[0x80_u8; 3][..]), None);
    }

    #[test]
    fn a_header_names_the_files_of_its_package() {
        let mut data = Vec::new();
        let mut index = Vec::new();
        let mut put = |tag: u32, kind: u32, count: u32, value: &[u8]| {
            for word in [tag, kind, data.len() as u32, count] {
                index.extend(word.to_be_bytes());
            }
            data.extend_from_slice(value);
        };
        put(tag::NAME, 6, 1, b"zlib\0");
        put(tag::VERSION, 6, 1, b"1.2\0");
        put(tag::RELEASE, 6, 1, b"3.el9\0");
        put(tag::EPOCH, 4, 1, &[0, 0, 0, 2]);
        put(tag::DIRECTORY_INDEXES, 4, 2, &[0, 0, 0, 1, 0, 0, 0, 0]);
        put(tag::BASE_NAMES, 8, 2, b"libz.so\0readme\0");
        put(tag::DIRECTORY_NAMES, 8, 2, b"/usr/share/\0/usr/lib64/\0");
        let tags = (index.len() / 16) as u32;
        let bytes = [&tags.to_be_bytes()[..], &(data.len() as u32).to_be_bytes(), &index, &data].concat();
        let wanted = [(b"/usr/lib64/libz.so".to_vec(), b"/lib64/libz.so".to_vec())].into();
        let mut owners = Owners::new();
        files(&bytes, &wanted, &mut owners);
        let owner = &owners[&b"/lib64/libz.so"[..]];
        assert_eq!((owner.name.as_str(), owner.version.as_ref().unwrap().as_str()), ("zlib", "2:1.2-3.el9"));
        // Cut anywhere, it names less, and nothing worse.
        for end in 0..bytes.len() {
            files(&bytes[..end], &wanted, &mut Owners::new());
        }
    }
}
