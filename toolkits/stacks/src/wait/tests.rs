//! Calls as /proc/PID/task/TID/syscall gave them, with memory that is made up.

use super::*;

/// Memory that holds `bytes` at `start`, and nothing else.
fn memory(start: u64, bytes: &[u8]) -> impl FnMut(u64, &mut [u8]) -> usize + '_ {
    move |address, buffer| {
        let Some(at) = address.checked_sub(start).and_then(|at| usize::try_from(at).ok()) else { return 0 };
        let there = bytes.get(at..).unwrap_or_default();
        let count = there.len().min(buffer.len());
        buffer[..count].copy_from_slice(&there[..count]);
        count
    }
}

fn words(list: &[u32]) -> Vec<u8> {
    list.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn threads(list: &[(u32, u32)]) -> Threads {
    let names = list.iter().map(|(inner, tid)| (*inner, (*tid, Text::from("t"))));
    Threads { by_inner_tid: names.collect() }
}

fn lock_at(address: u64, op: u64, expected: u32, start: u64, bytes: &[u8], names: &[&str]) -> Option<Lock> {
    let call = [address, op, expected.into(), 0, 0, 0];
    let wait = decode("futex", &call, &mut memory(start, bytes)).expect("a wait");
    identify(wait.futex.as_deref().expect("a futex"), names, &threads(&[(71, 1071), (72, 1072), (2, 1002)]))
}

#[test]
fn a_mutex_names_its_holder() {
    // lock, count, owner, users, kind
    for (kind, name) in [(0, "normal"), (1, "recursive"), (2, "error_check"), (3, "adaptive"), (0x102, "error_check")] {
        let bytes = words(&[2, 1, 71, 1, kind, 0, 0, 0, 0, 0]);
        let lock = lock_at(0x1000, 128, 2, 0x1000, &bytes, &[]).expect("a lock");
        assert_eq!((lock.kind, lock.mutex_type, lock.address), ("mutex", Some(name), Hex(0x1000)));
        assert_eq!(lock.owner.expect("an owner").tid, 1071);
    }
    // In a container a lock word may look like a thread ID.
    let bytes = words(&[2, 0, 72, 1, 0, 0, 0, 0]);
    let lock = lock_at(0x1000, 0, 2, 0x1000, &bytes, &[]).expect("a lock");
    assert_eq!((lock.kind, lock.owner.map(|owner| owner.tid)), ("mutex", Some(1072)));
}

#[test]
fn words_that_are_no_lock_have_no_holder() {
    let none = [&[2, 1, 99, 1, 0][..], &[2, 1, 71, 1, 0xdead], &[2, 1, 71, u32::MAX, 0], &[2], &[0; 20]];
    for list in none {
        assert_eq!(lock_at(0x1000, 128, 2, 0x1000, &words(list), &[]), None, "{list:?}");
    }
    // What is named and cannot be read is still a lock.
    let lock = lock_at(0x1000, 128, 2, 0x1000, &words(&[2]), &["__lll_lock_wait", "pthread_mutex_lock"]);
    assert_eq!(lock.map(|lock| (lock.kind, lock.owner)), Some(("mutex", None)));
    // Rust's mutex has no holder, whatever lies behind it.
    let bytes = words(&[2, 1, 71, 1, 0]);
    let lock = lock_at(0x1000, 128, 2, 0x1000, &bytes, &["syscall", "std::sys::sync::mutex::futex::Mutex::lock"]);
    assert_eq!(lock.map(|lock| (lock.kind, lock.owner)), Some(("rust_mutex", None)));
}

#[test]
fn the_kernel_s_own_locks_hold_the_thread_id() {
    let word = 71 | 0x8000_0000;
    let lock = lock_at(0x1000, 128 | 6, 0, 0x1000, &words(&[word, 1, 71, 1, 0x20]), &[]).expect("a lock");
    assert_eq!((lock.priority_inheritance, lock.owner.map(|owner| owner.tid)), (Some(true), Some(1071)));
    let lock = lock_at(0x1000, 128, word, 0x1000, &words(&[word, 1, 71, 1, 0x10]), &[]).expect("a lock");
    assert_eq!(lock.owner.map(|owner| owner.tid), Some(1071));
    // pthread_join: the word is the ID, and shared.
    let lock = lock_at(0x1000, 0x109, 72, 0x1000, &words(&[72]), &[]).expect("a lock");
    assert_eq!((lock.kind, lock.owner.map(|owner| owner.tid)), ("thread", Some(1072)));
}

#[test]
fn a_rwlock_names_its_writer_and_counts_its_readers() {
    // readers, writers, phase, writers' futex, padding, writer, shared
    let held = words(&[0b1011, 0, 3, 3, 0, 0, 71, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for (offset, wants) in [(8, "read"), (12, "write")] {
        let lock = lock_at(0x1000 + offset, 128, 3, 0x1000, &held, &[]).expect("a lock");
        assert_eq!((lock.kind, lock.address, lock.wants), ("rwlock", Hex(0x1000), Some(wants)));
        assert_eq!(lock.owner.map(|owner| owner.tid), Some(1071));
    }
    let read = words(&[0b1_1010, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let lock = lock_at(0x1008, 128, 2, 0x1000, &read, &["__pthread_rwlock_wrlock_full64"]).expect("a lock");
    assert_eq!((lock.wants, lock.readers, lock.owner), (Some("write"), Some(3), None));
}

#[test]
fn descriptors_come_from_arguments_and_memory() {
    let none = &mut |_: u64, _: &mut [u8]| 0;
    let fds = |wait: Wait| wait.descriptors.into_iter().map(|one| (one.fd, one.events)).collect::<Vec<_>>();
    assert_eq!(fds(decode("read", &[5, 0, 1, 0, 0, 0], none).expect("a wait")), [(5, vec![])]);
    assert_eq!(fds(decode("splice", &[5, 0, 7, 0, 0, 0], none).expect("a wait")), [(5, vec![]), (7, vec![])]);
    let polled = words(&[9, 1, u32::MAX, 1, 4, 5]);
    let wait = decode("poll", &[0x1000, 3, 2500, 0, 0, 0], &mut memory(0x1000, &polled)).expect("a wait");
    assert_eq!(wait.timeout.map(|time| time.time_us), Some(2_500_000));
    assert_eq!(wait.descriptor_count, Some(3));
    assert_eq!(fds(wait), [(9, vec!["read"]), (4, vec!["read", "write"])]);
    let set = (1_u64 << 3 | 1 << 40).to_ne_bytes();
    let wait = decode("select", &[41, 0x1000, 0x1000, 0, 0, 0], &mut memory(0x1000, &set)).expect("a wait");
    assert_eq!(fds(wait), [(3, vec!["read", "write"]), (40, vec!["read", "write"])]);
}

#[test]
fn times_and_children_and_signals() {
    let time = [3_i64.to_ne_bytes(), 500_000_000_i64.to_ne_bytes()].concat();
    let wait = decode("clock_nanosleep", &[7, 1, 0x1000, 0, 0, 0], &mut memory(0x1000, &time)).expect("a wait");
    assert_eq!(wait.timeout, Some(Timeout { time_us: 3_500_000, absolute: true, clock: Some("boottime") }));
    let none = &mut |_: u64, _: &mut [u8]| 0;
    for (pid, which, shown) in [(-1, "any", None), (0, "group", None), (42, "pid", Some(42)), (-7, "group", Some(7))] {
        let wait = decode("wait4", &[pid as u32 as u64, 0, 0, 0, 0, 0], none).expect("a wait");
        assert_eq!(wait.child, Some(Child { which, pid: shown }));
    }
    let set = (1_u64 << 11).to_ne_bytes();
    let wait = decode("rt_sigtimedwait", &[0x1000, 0, 0, 8, 0, 0], &mut memory(0x1000, &set)).expect("a wait");
    assert_eq!(wait.signals, [12]);
    assert_eq!(decode("getpid", &[0; 6], none), None);
}

#[test]
fn hostile_arguments_cost_little() {
    let endless = &mut |_: u64, buffer: &mut [u8]| {
        buffer.fill(0xff);
        buffer.len()
    };
    for name in ["poll", "ppoll", "select", "pselect6", "openat", "nanosleep", "futex", "rt_sigtimedwait", "splice"] {
        let wait = decode(name, &[u64::MAX; 6], endless).expect("a wait");
        assert!(wait.descriptors.len() <= MAX_DESCRIPTORS);
    }
}
