//! Symbols by name, and names by address.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use agent_model::{Hex, Text};
use schemars::JsonSchema;
use serde::Serialize;

use crate::demangle::demangle;
use crate::elf::{ElfFile, Source, SymbolOrigin};
use crate::mapped::Mapped;

/// Symbols that are listed of one module.
pub const MAX_NAMED: usize = 20_000;
/// Bytes of their names: names in a file may overlap, so that a small file can hold
/// gigabytes of them.
const MAX_NAMES: usize = 8 << 20;

/// A symbol that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
pub struct Named {
    /// Where it is in the process (AVMA); absent for one that is not defined here,
    /// is thread-local, or whose module's place is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "ADDRESS"))]
    pub address: Option<Hex>,
    /// Its name, as the file has it.
    #[schemars(extend("x-column" = "NAME"))]
    #[schemars(extend("x-class" = "name"))]
    pub name: Text,
    /// Its name as in the source of a C++ or Rust program.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "name"))]
    pub demangled: Option<Text>,
    /// Its version (`GLIBC_2.34`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "VERSION"))]
    #[schemars(extend("x-class" = "id"))]
    pub version: Option<Text>,
    /// Whether a program that is linked now gets this version; absent without one,
    /// and for one that is not defined here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_version: Option<bool>,
    /// Its size, in bytes.
    #[schemars(extend("x-column" = "SIZE"))]
    pub size_bytes: u64,
    /// `function`, `object`, `ifunc`, `tls`, `notype`, `common`, `section`, `file`,
    /// `other`.
    #[serde(rename = "type")]
    #[schemars(extend("x-column" = "TYPE"))]
    #[schemars(extend("x-class" = "word"))]
    pub kind: &'static str,
    /// `local`, `global`, `weak`, `unique`, `other`.
    #[schemars(extend("x-column" = "BINDING"))]
    #[schemars(extend("x-class" = "word"))]
    pub binding: &'static str,
    /// Whether it is defined here, and not taken from another module.
    pub defined: bool,
    /// The table that has it: `dynsym`, `symtab` (and not `dynsym`), `dynamic`.
    #[schemars(extend("x-class" = "word"))]
    pub table: &'static str,
}

/// What stands at an address that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Located {
    /// The address (AVMA).
    #[schemars(extend("x-column" = "ADDRESS"))]
    pub address: Hex,
    /// The address as linked (SVMA).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub linked_address: Option<Hex>,
    /// The section that it lies in.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "SECTION"))]
    #[schemars(extend("x-class" = "word"))]
    pub section: Option<Text>,
    /// The function that it lies in.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "FUNCTION"))]
    #[schemars(extend("x-class" = "name"))]
    pub function: Option<Text>,
    /// Its bytes behind the start of that function.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "OFFSET"))]
    pub offset: Option<u64>,
}

/// Whether `name` is of the form `pattern`: `*` stands for any bytes, `?` for one.
pub fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    // Where to go on after the last `*`, which takes one byte more each time.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, n));
                p += 1;
            }
            Some(byte) if *byte == b'?' || *byte == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((after, taken)) => {
                    p = after;
                    n = taken + 1;
                    star = Some((after, taken + 1));
                }
                None => return false,
            },
        }
    }
    pattern[p.min(pattern.len())..].iter().all(|byte| *byte == b'*')
}

/// Address, name, and index of the version.
type SymbolKey = (Option<u64>, Vec<u8>, Option<u16>);

/// The symbols of a module whose names are of the form `pattern`, by address and
/// name; and whether there were more than [`MAX_NAMED`]. `bias` is its place.
pub fn named<S: Source>(elf: &ElfFile<S>, bias: Option<u64>, pattern: &str) -> (Vec<Named>, bool) {
    let versions = elf.versions();
    let mut found: BTreeMap<SymbolKey, Named> = BTreeMap::new();
    let mut more = false;
    let mut bytes = 0;
    elf.each_symbol(&mut |listed, name| {
        // gcc's and ld's own notation in .symtab: `name@VERSION`, `name@@VERSION`.
        let bare = name.split(|byte| *byte == b'@').next().unwrap_or(name);
        if matches!(listed.kind, "section" | "file") || !matches(pattern.as_bytes(), bare) {
            return ControlFlow::Continue(());
        }
        bytes += bare.len();
        if found.len() == MAX_NAMED || bytes > MAX_NAMES {
            more = true;
            return ControlFlow::Break(());
        }
        let has_place = listed.defined && !matches!(listed.kind, "tls");
        let address = bias.filter(|_| has_place).map(|bias| listed.svma.wrapping_add(bias));
        let is_dynamic = listed.origin != SymbolOrigin::Symtab;
        let index = listed.version.map(|(index, _)| index).filter(|index| *index > 1);
        let version = index.and_then(|index| versions.names.get(&index));
        let known = (address, bare.to_vec(), None);
        // `.dynsym` is handed out first: it has the versions.
        if !is_dynamic
            && found.range(known.clone()..).next().is_some_and(|(key, _)| (key.0, &key.1) == (address, &known.1))
        {
            return ControlFlow::Continue(());
        }
        let text = String::from_utf8_lossy(bare);
        let named = Named {
            address: address.map(Hex),
            name: Text::from_bytes(bare),
            demangled: demangle(&text).filter(|name| name.len() < 4096).map(|name| Text::from_bytes(name.as_bytes())),
            version: version.map(|name| Text::from_bytes(name.as_bytes())),
            default_version: listed
                .version
                .filter(|_| listed.defined && version.is_some())
                .map(|(_, is_hidden)| !is_hidden),
            size_bytes: listed.size,
            kind: listed.kind,
            binding: listed.binding,
            defined: listed.defined,
            table: listed.origin.as_str(),
        };
        found.insert((address, bare.to_vec(), index), named);
        ControlFlow::Continue(())
    });
    (found.into_values().collect(), more)
}

/// What stands at those of `addresses` that lie in `mapped`.
pub fn located<S: Source>(elf: &ElfFile<S>, mapped: &Mapped, addresses: &[Hex]) -> Vec<Located> {
    let inside = |address: u64| mapped.pieces.iter().any(|piece| piece.avma.contains(&address));
    let bias = mapped.bias(elf);
    let mut symbols = None;
    let mut list: Vec<Hex> = addresses.iter().copied().filter(|address| inside(address.0)).collect();
    list.sort_unstable();
    list.dedup();
    list.into_iter()
        .map(|address| {
            let svma = bias.map(|bias| address.0.wrapping_sub(bias));
            let section = svma.and_then(|svma| {
                let holds = |svma: u64, start: u64, size: u64| start != 0 && svma.wrapping_sub(start) < size;
                elf.sections().iter().find(|section| holds(svma, section.svma, section.size))
            });
            let symbol = svma.and_then(|svma| symbols.get_or_insert_with(|| elf.symbols()).lookup(elf, svma));
            Located {
                address,
                linked_address: svma.map(Hex),
                section: section.map(|section| Text::from_bytes(section.name.as_bytes())),
                offset: symbol.as_ref().map(|symbol| symbol.offset),
                function: symbol.map(|symbol| {
                    let name = demangle(&symbol.name).unwrap_or(symbol.name);
                    Text::from_bytes(name.as_bytes())
                }),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, name) in
            [("*", ""), ("mall?c", "malloc"), ("SSL_*", "SSL_new"), ("*chk*", "__stack_chk_fail"), ("a*b*c", "axxbxbc")]
        {
            assert!(matches(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
        for (pattern, name) in [("malloc", "mallocx"), ("?", ""), ("a*b", "ac"), ("", "x"), ("*x", "xy")] {
            assert!(!matches(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
    }

    #[test]
    fn a_hostile_pattern_takes_no_exponential_time() {
        let pattern = b"*a".repeat(64);
        assert!(!matches(&[&pattern[..], b"b"].concat(), &vec![b'a'; 4096]));
    }
}
