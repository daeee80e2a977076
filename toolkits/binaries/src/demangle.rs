//! Names as people wrote them: C++ (Itanium ABI) and Rust (legacy and v0).
//!
//! Symbol names come from files that nobody vouches for. A name of a hundred
//! bytes can describe a type of gigabytes, so what goes in and what comes out
//! are both bounded, and so is the depth of the parse.
//!
//! ```
//! use agent_binaries::demangle::demangle;
//!
//! assert_eq!(demangle("_ZN3foo3barEi").as_deref(), Some("foo::bar(int)"));
//! assert_eq!(demangle("_ZN3std2io4read17h0123456789abcdefE").as_deref(), Some("std::io::read"));
//! assert_eq!(demangle("_RNvCs1234_7mycrate3foo").as_deref(), Some("mycrate::foo"));
//! assert_eq!(demangle("main"), None);
//! ```

use std::fmt::{self, Write};

use cpp_demangle::{DemangleOptions, ParseOptions, Symbol};

/// Bytes of a mangled name that are looked at; a longer one is shown as it is.
/// The longest of libstdc++, LLVM and Node has 986.
pub const MAX_MANGLED: usize = 8 * 1024;
/// Bytes of a demangled name; a longer one is not made, and the mangled name
/// stands.
pub const MAX_DEMANGLED: usize = 64 * 1024;
/// Depth of the C++ grammar. The parser goes back and tries again, so its time
/// grows with two to the power of the depth: at 64 the worst of 16 million
/// mutants took 0.13 s, at 96 it took 1.5 s. Of 276,000 names of libstdc++, LLVM
/// and Node, 64 parses 99.87 % of those that 192 does.
const MAX_PARSE_DEPTH: u32 = 64;
/// Depth of what is written; its length is bounded anyhow.
const MAX_WRITE_DEPTH: u32 = 96;

/// The name as it stands in the source of the program, without Rust's hash.
/// `None` where `name` is mangled in no way known here (a C name), or where a
/// limit was met.
#[must_use]
pub fn demangle(name: &str) -> Option<String> {
    if name.len() > MAX_MANGLED {
        return None;
    }
    // Legacy Rust names are valid C++ names too, so Rust is asked first.
    rust(name).or_else(|| cpp(name))
}

fn rust(name: &str) -> Option<String> {
    if !name.starts_with("_R") && !name.starts_with("_ZN") {
        return None;
    }
    let demangled = rustc_demangle::try_demangle(name).ok()?;
    let mut text = Bounded::default();
    // The alternate form leaves the hash out.
    write!(text, "{demangled:#}").ok()?;
    text.finish()
}

fn cpp(name: &str) -> Option<String> {
    if !name.starts_with("_Z") && !name.starts_with("_GLOBAL_") {
        return None;
    }
    let options = ParseOptions::default().recursion_limit(MAX_PARSE_DEPTH);
    let symbol = Symbol::new_with_options(name, &options).ok()?;
    let mut text = Bounded::default();
    let options = DemangleOptions::default().recursion_limit(MAX_WRITE_DEPTH);
    symbol.structured_demangle(&mut text, &options).ok()?;
    text.finish()
}

/// A string that refuses to grow beyond [`MAX_DEMANGLED`].
#[derive(Default)]
struct Bounded(String);

impl Bounded {
    fn finish(self) -> Option<String> {
        (!self.0.is_empty()).then_some(self.0)
    }
}

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() + text.len() > MAX_DEMANGLED {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn reads_cpp_names() {
        let cases = [
            ("_ZNSt6vectorIiSaIiEE9push_backEOi", "std::vector<int, std::allocator<int> >::push_back(int&&)"),
            ("_ZN3FooC1Ev", "Foo::Foo()"),
            ("_ZlsRSoRK1A", "operator<<(std::ostream&, A const&)"),
            ("_Z3barv.cold", "bar() [clone .cold]"),
        ];
        for (mangled, expected) in cases {
            assert_eq!(demangle(mangled).as_deref(), Some(expected), "{mangled}");
        }
    }

    #[test]
    fn reads_rust_names_without_their_hash() {
        let cases = [
            ("_ZN4core3ptr13drop_in_place17h0123456789abcdefE", "core::ptr::drop_in_place"),
            ("_ZN3foo3bar17h05af221e174051e9E.llvm.12345", "foo::bar"),
            ("_RNvNtCs1234_7mycrate3foo3bar", "mycrate::foo::bar"),
            ("_RINvNtC3std3mem8align_ofjE", "std::mem::align_of::<usize>"),
        ];
        for (mangled, expected) in cases {
            assert_eq!(demangle(mangled).as_deref(), Some(expected), "{mangled}");
        }
    }

    #[test]
    fn leaves_other_names_alone() {
        for name in ["", "main", "_start", "_Z", "_R", "_ZN", "__libc_start_main", "_ZZZZZZ", "Java_com_x"] {
            assert_eq!(demangle(name), None, "{name}");
        }
    }

    #[test]
    fn bounds_names_that_explode() {
        // Each substitution doubles the type: 2^40 characters if followed.
        let mut bomb = String::from("_Z1fSt4pairI1A1AE");
        for index in 0..40 {
            let back = if index == 0 { String::new() } else { to_base36(index - 1) };
            bomb.push_str(&format!("St4pairIS{back}_S{back}_E"));
        }
        let started = Instant::now();
        let _ = demangle(&bomb);
        let _ = demangle(&format!("_Z{}", "P".repeat(10_000)));
        let _ = demangle(&format!("_Z1f{}", "Dp".repeat(5_000)));
        let _ = demangle(&format!("_R{}", "T".repeat(10_000)));
        let _ = demangle(&format!("_ZN{}E", "1a".repeat(4_000)));
        let _ = demangle(&format!("_ZNKSt7__cxx118time_getIcSt11char_{}", "tr".repeat(1_500)));
        let _ = demangle(&format!("_ZNKSt3fooIcE{}", "IcESaIcsIcESaIcsI".repeat(60)));
        let _ = demangle(&format!("_ZN2v81aI1bILb0EEEE{}", "S3_ILS4_1ELS3_ILS4_1EZ".repeat(100)));
        assert_eq!(demangle(&"_Z".repeat(MAX_MANGLED)), None);
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    }

    fn to_base36(mut number: usize) -> String {
        let mut digits = Vec::new();
        loop {
            digits.push(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"[number % 36]);
            number /= 36;
            if number == 0 {
                break;
            }
        }
        digits.reverse();
        String::from_utf8(digits).unwrap()
    }
}
