//! `numa_maps`: on which nodes the memory of each mapping is (numa(7)).

use agent_model::Text;
use agent_system::parse::{hex, number};

use super::store::Numa;

/// Parses a line: the mapping's first address, and what is said of it. `None` when
/// it is not as numa(7) says.
///
/// `7f5c0e4d2000 bind:0-1 file=/usr/lib/libc.so.6 mapped=12 N0=11 N1=1 kernelpagesize_kB=4`
pub(crate) fn line(line: &[u8]) -> Option<(u64, Numa)> {
    let mut words = line.split(|byte| *byte == b' ').filter(|word| !word.is_empty()).peekable();
    let start = hex(words.next()?)?;
    let mut policy = words.next()?.to_vec();
    // `weighted interleave:0-1` is two words.
    while let Some(more) = words.next_if(|word| !is_item(word)) {
        policy.push(b' ');
        policy.extend_from_slice(more);
    }
    let mut page_bytes = 4096;
    let mut nodes = Vec::new();
    for word in words {
        let Some(equals) = word.iter().position(|byte| *byte == b'=') else { continue };
        let (key, value) = (&word[..equals], &word[equals + 1..]);
        if key == b"kernelpagesize_kB" {
            page_bytes = number::<u64>(value)?.saturating_mul(1024);
        } else if let Some(node) = key.strip_prefix(b"N").and_then(number::<u32>) {
            nodes.push((node, number::<u64>(value)?));
        }
    }
    nodes.sort_unstable();
    for (_, pages) in &mut nodes {
        *pages = pages.saturating_mul(page_bytes);
    }
    Some((start, Numa { policy: Text::from_bytes(&policy), nodes }))
}

/// Whether a word is no part of the policy.
fn is_item(word: &[u8]) -> bool {
    matches!(word, b"heap" | b"stack" | b"huge") || word.contains(&b'=')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_policy_and_nodes() {
        let text = b"5653e003c000 default file=/tmp/a\\040b mapped=3 mapmax=2 N1=1 N0=2 kernelpagesize_kB=4";
        let (start, numa) = line(text).expect("parses");
        assert_eq!((start, numa.policy.as_str()), (0x5653_e003_c000, "default"));
        assert_eq!(numa.nodes, [(0, 8192), (1, 4096)]);
        let (_, numa) = line(b"7f0000000000 weighted interleave:0-1 huge anon=1 dirty=1 N0=1 kernelpagesize_kB=2048")
            .expect("parses");
        assert_eq!((numa.policy.as_str(), &numa.nodes[..]), ("weighted interleave:0-1", &[(0, 2 << 20)][..]));
        assert_eq!(line(b"7ffd00000000 prefer (many):0 stack").expect("parses").1.policy.as_str(), "prefer (many):0");
    }

    #[test]
    fn what_is_not_so_is_refused() {
        for bad in [&b""[..], b"zz default", b"7f00", b"7f00 default N0=x"] {
            assert_eq!(line(bad), None);
        }
    }
}
