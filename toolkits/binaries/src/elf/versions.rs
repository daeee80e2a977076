//! Symbol versions: what a module requires of others and defines itself
//! (LSB Core, "Symbol Versioning").

use std::collections::BTreeMap;

use super::Image;
use super::dynamic::Dynamic;
use super::facts::{Part, Problem, Problems};
use super::source::{Source, read_vec};
use super::strings::Strings;

/// Bytes of one version table that are read.
const MAX_TABLE: usize = 256 * 1024;
/// Libraries whose versions are read, and versions of all of them together.
const MAX_LIBRARIES: u64 = 1024;
const MAX_VERSIONS: usize = 8192;
/// Bytes of one name: strings may overlap, so each is bounded.
const MAX_NAME: usize = 512;

/// What is required of one library (`Elf64_Verneed`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The library, as `DT_NEEDED` has it.
    pub library: String,
    /// The versions, in the order of the file.
    pub versions: Vec<String>,
}

/// The symbol versions of a module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Versions {
    /// What it requires, in the order of the file.
    pub required: Vec<Requirement>,
    /// What it defines, in the order of the file, without its own name.
    pub defined: Vec<String>,
    /// The name of each index of `.gnu.version`.
    pub names: BTreeMap<u16, String>,
    /// What could not be read.
    pub problems: Vec<Problem>,
}

/// A table whose entries are chained by distances.
struct Chain {
    bytes: Vec<u8>,
    little: bool,
}

impl Chain {
    fn u16(&self, at: usize) -> Option<u16> {
        let bytes: [u8; 2] = self.bytes.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if self.little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    }

    fn u32(&self, at: usize) -> Option<u32> {
        let bytes: [u8; 4] = self.bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(if self.little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
    }

    /// The entry `distance` behind `at`; a distance of zero ends the chain, and
    /// none leads back.
    fn next(at: usize, distance: u32) -> Option<usize> {
        (distance != 0).then(|| at.checked_add(distance as usize)).flatten()
    }
}

pub(super) fn read<S: Source>(image: &Image<'_, S>, dynamic: &Dynamic) -> Versions {
    let mut versions = Versions::default();
    let mut problems = Problems::default();
    let place = dynamic.strings.and_then(|(svma, size)| Some((image.offset_of(svma)?, size)));
    if let Some(place) = place {
        let mut strings = Strings::new(image.source, place);
        if let (Some(svma), count) = dynamic.version_needs
            && let Some(chain) = chain(image, svma, ".gnu.version_r", &mut problems)
            && required(&chain, count, &mut strings, &mut versions).is_none()
        {
            problems.add(Part::Versions, ".gnu.version_r does not end as it says");
        }
        if let (Some(svma), count) = dynamic.version_definitions
            && let Some(chain) = chain(image, svma, ".gnu.version_d", &mut problems)
            && defined(&chain, count, &mut strings, &mut versions).is_none()
        {
            problems.add(Part::Versions, ".gnu.version_d does not end as it says");
        }
    }
    versions.problems = problems.0;
    versions
}

fn chain<S: Source>(image: &Image<'_, S>, svma: u64, name: &str, problems: &mut Problems) -> Option<Chain> {
    // Its size stands in its section header alone: without one, a page is
    // tried, and what the chain does not reach was read for nothing.
    let size = image.section(name).map_or(64 * 1024, |section| usize::try_from(section.size).unwrap_or(usize::MAX));
    let bytes = image.offset_of(svma).and_then(|offset| read_vec(image.source, offset, size.min(MAX_TABLE)).ok());
    match bytes {
        Some(bytes) if !bytes.is_empty() => Some(Chain { bytes, little: image.context.is_little_endian() }),
        _ => {
            problems.add(Part::Versions, format!("{name} at {svma:#x} cannot be read"));
            None
        }
    }
}

fn text<S: Source>(strings: &mut Strings<'_, S>, at: u32) -> Option<String> {
    let name = strings.get(u64::from(at)).filter(|name| <[u8]>::len(name) <= MAX_NAME)?;
    Some(String::from_utf8_lossy(name).into_owned())
}

fn required<S: Source>(chain: &Chain, count: u64, strings: &mut Strings<'_, S>, versions: &mut Versions) -> Option<()> {
    let (mut at, mut kept) = (0, 0);
    for left in (0..count.min(MAX_LIBRARIES)).rev() {
        let library = text(strings, chain.u32(at + 4)?)?;
        let mut requirement = Requirement { library, versions: Vec::new() };
        let mut aux = Chain::next(at, chain.u32(at + 8)?)?;
        for left in (0..chain.u16(at + 2)?).rev() {
            let name = text(strings, chain.u32(aux + 8)?)?;
            versions.names.insert(chain.u16(aux + 6)? & 0x7fff, name.clone());
            requirement.versions.push(name);
            kept += 1;
            if kept == MAX_VERSIONS {
                return None;
            }
            if left > 0 {
                aux = Chain::next(aux, chain.u32(aux + 12)?)?;
            }
        }
        versions.required.push(requirement);
        if left > 0 {
            at = Chain::next(at, chain.u32(at + 12)?)?;
        }
    }
    Some(())
}

/// `VER_FLG_BASE`: the entry that names the file itself.
const BASE: u16 = 1;

fn defined<S: Source>(chain: &Chain, count: u64, strings: &mut Strings<'_, S>, versions: &mut Versions) -> Option<()> {
    let mut at = 0;
    for left in (0..count.min(MAX_VERSIONS as u64)).rev() {
        let (flags, index) = (chain.u16(at + 2)?, chain.u16(at + 4)?);
        let aux = Chain::next(at, chain.u32(at + 12)?)?;
        let name = text(strings, chain.u32(aux)?)?;
        if flags & BASE == 0 {
            versions.names.insert(index & 0x7fff, name.clone());
            versions.defined.push(name);
        }
        if left > 0 {
            at = Chain::next(at, chain.u32(at + 16)?)?;
        }
    }
    Some(())
}
