//! `fds --shared`: which descriptors are one open file description (dup(2)).

use std::cmp::Ordering;
use std::collections::BTreeMap;

use agent_model::{Gap, Noted};
use agent_system::{Errno, Failure, Process, Run};

use super::Row;

/// Sets [`Row::description`] of the descriptors that share one.
///
/// Only those that look the same are compared: of one type, with one target and at one
/// position. They are sorted by kcmp(2), so that ten thousand take some hundred
/// thousand system calls and not fifty million.
pub(super) fn join(run: &Run, process: &Process<'_>, rows: &mut [Noted<Row>], gaps: &mut Vec<Gap>) {
    let mut alike: BTreeMap<_, Vec<u32>> = BTreeMap::new();
    for row in rows.iter().map(|row| &row.value) {
        alike.entry((row.kind, &row.target, row.inode, row.position)).or_default().push(row.fd);
    }
    let mut first_of = BTreeMap::new();
    let mut failed = None;
    for mut group in alike.into_values().filter(|group| group.len() > 1) {
        match share(process, &mut group) {
            Ok(shared) => first_of.extend(shared),
            Err(failure) => {
                failed = Some(failure);
                break;
            }
        }
    }
    // The pid that was compared may have become another's.
    if failed.is_none() && !first_of.is_empty() {
        failed = process.stat(&mut Vec::with_capacity(1024)).err();
    }
    match failed {
        Some(failure) => gaps.push(run.gap("/rows/-/description", &failure)),
        None => {
            for row in rows {
                row.value.description = first_of.get(&row.value.fd).copied();
            }
        }
    }
}

/// Of the descriptors of `group` that share their description with another, the lowest
/// one that does.
fn share(process: &Process<'_>, group: &mut Vec<u32>) -> Result<Vec<(u32, u32)>, Failure> {
    let compare = |a: u32, b: u32| match process.compare_descriptions(a, b) {
        // One was closed meanwhile: any order will do for it.
        Err(failure) if failure.errno() == Some(Errno::BADF) => Ok(a.cmp(&b)),
        result => result,
    };
    sort(group, &compare)?;
    let mut shared = Vec::new();
    let mut start = 0;
    for at in 1..=group.len() {
        let is_same = at < group.len() && compare(group[at - 1], group[at])? == Ordering::Equal;
        if !is_same {
            let first = group[start..at].iter().min().copied().unwrap_or_default();
            if at - start > 1 {
                shared.extend(group[start..at].iter().map(|fd| (*fd, first)));
            }
            start = at;
        }
    }
    Ok(shared)
}

/// Merge sort, by an order that may fail and, since descriptors come and go, may
/// contradict itself: the standard one may panic then.
fn sort<E>(list: &mut Vec<u32>, compare: &impl Fn(u32, u32) -> Result<Ordering, E>) -> Result<(), E> {
    let mut width = 1;
    while width < list.len() {
        let mut merged = Vec::with_capacity(list.len());
        for pair in list.chunks(2 * width) {
            let (mut left, mut right) = pair.split_at(width.min(pair.len()));
            while let ([a, rest_a @ ..], [b, rest_b @ ..]) = (left, right) {
                if compare(*a, *b)? == Ordering::Greater {
                    merged.push(*b);
                    right = rest_b;
                } else {
                    merged.push(*a);
                    left = rest_a;
                }
            }
            merged.extend_from_slice(left);
            merged.extend_from_slice(right);
        }
        *list = merged;
        width *= 2;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorts_as_the_standard_sort_does() {
        for length in 0..70_u32 {
            let mut list: Vec<u32> = (0..length).map(|n| n * 31 % 17).collect();
            let mut expected = list.clone();
            expected.sort_unstable();
            assert_eq!(sort(&mut list, &|a, b| Ok::<_, ()>(a.cmp(&b))), Ok(()));
            assert_eq!(list, expected);
        }
    }

    #[test]
    fn an_order_that_contradicts_itself_loses_nothing() {
        let mut list: Vec<u32> = (0..1000).collect();
        let turn = std::cell::Cell::new(1_u32);
        let any = |_, _| {
            turn.set(turn.get().wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
            Ok::<_, ()>(if turn.get() >> 31 == 0 { Ordering::Less } else { Ordering::Greater })
        };
        assert_eq!(sort(&mut list, &any), Ok(()));
        list.sort_unstable();
        assert!(list.iter().copied().eq(0..1000));
    }

    #[test]
    fn a_failure_ends_it() {
        assert_eq!(sort(&mut vec![1, 2], &|_, _| Err("no")), Err("no"));
    }
}
