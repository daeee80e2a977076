use super::*;

/// Linux 6.18, of a container.
const LIMITS: &[u8] = b"\
Limit                     Soft Limit           Hard Limit           Units     \n\
Max cpu time              unlimited            unlimited            seconds   \n\
Max stack size            8388608              unlimited            bytes     \n\
Max core file size        0                    unlimited            bytes     \n\
Max open files            20000                20000                files     \n\
Max address space         9223372036854775807  18446744073709551614 bytes     \n\
Max nice priority         0                    0                    \n\
Max realtime timeout      unlimited            unlimited            us        \n";

#[test]
fn reads_every_limit_with_its_unit() {
    let all = rlimits(LIMITS);
    let names: Vec<&[u8]> = all.iter().map(|limit| limit.name).collect();
    assert_eq!(
        names,
        [
            b"Max cpu time".as_slice(),
            b"Max stack size",
            b"Max core file size",
            b"Max open files",
            b"Max address space",
            b"Max nice priority",
            b"Max realtime timeout",
        ]
    );
    assert_eq!(
        (all[0].soft, all[0].hard, all[0].unit),
        (Bound::Unlimited, Bound::Unlimited, Some(b"seconds".as_slice()))
    );
    assert_eq!((all[1].soft, all[1].hard), (Bound::At(8_388_608), Bound::Unlimited));
    assert_eq!((all[4].soft, all[4].hard), (Bound::At(i64::MAX as u64), Bound::At(u64::MAX - 1)));
    assert_eq!(all[5].unit, None);
}

#[test]
fn truncated_and_foreign_text_is_left_out() {
    for end in 0..LIMITS.len() {
        let _ = rlimits(&LIMITS[..end]);
    }
    assert!(rlimits(b"").is_empty());
    assert!(rlimits(b"Max open files            20000                20000                files     \n").is_empty());
    let later = [LIMITS, b"Max something new         many                 12                   things    \n"].concat();
    assert_eq!(rlimits(&later).len(), 7);
    let later = [LIMITS, b"Max something new         7                    12                   things    \n"].concat();
    assert_eq!(rlimits(&later)[7].name, b"Max something new");
}

#[test]
fn no_limit_has_three_spellings() {
    assert_eq!(bound(b"max\n"), Some(Bound::Unlimited));
    assert_eq!(bound(b"67108864\n"), Some(Bound::At(67_108_864)));
    assert_eq!(bound(b"-1\n"), None);
    assert_eq!(v1_bytes(b"9223372036854771712\n"), Some(Bound::Unlimited));
    assert_eq!(v1_bytes(b"9223372036854710272\n"), Some(Bound::Unlimited)); // pages of 64 KiB
    assert_eq!(v1_bytes(b"67108864\n"), Some(Bound::At(67_108_864)));
    assert_eq!(v1_quota(b"-1\n"), Some(Bound::Unlimited));
    assert_eq!(v1_quota(b"20000\n"), Some(Bound::At(20_000)));
    assert_eq!(v1_quota(b"\n"), None);
}

#[test]
fn a_quota_stands_before_its_period() {
    assert_eq!(cpu_max(b"max 100000\n"), Some((Bound::Unlimited, Some(100_000))));
    assert_eq!(cpu_max(b"20000 100000\n"), Some((Bound::At(20_000), Some(100_000))));
    assert_eq!(cpu_max(b"\n"), None);
}

#[test]
fn the_use_stands_in_status() {
    let text =
        b"Name:\tVmLck: 7\nVmSize:\t    2500 kB\nVmLck:\t      64 kB\nVmRSS:\t    1536 kB\nVmData:\t     224 kB\n\
        VmStk:\t     132 kB\nSigQ:\t3/96365\nCpus_allowed_list:\t0-1,4\nVmNew:\t1 kB\n";
    let all = status_use(text);
    assert_eq!((all.size, all.data, all.stack), (Some(2500 << 10), Some(224 << 10), Some(132 << 10)));
    assert_eq!((all.locked, all.resident, all.signals), (Some(64 << 10), Some(1536 << 10), Some(3)));
    assert_eq!(all.cpus.as_deref(), Some("0-1,4"));
    // A zombie and a kernel thread have no memory.
    assert_eq!(status_use(b"Name:\tx\nThreads:\t1\n"), StatusUse::default());
    assert_eq!(status_use(b"Cpus_allowed_list:\t\xff\nVmLck:\tmuch\n"), StatusUse::default());
}

#[test]
fn cpus_are_counted() {
    assert_eq!(cpus(b"0\n"), Some(1));
    assert_eq!(cpus(b"0-3,8,10-11"), Some(7));
    assert_eq!(cpus(b"0-4294967295"), Some(1 << 32));
    assert_eq!(cpus(b"3-1"), None);
    assert_eq!(cpus(b"all"), None);
}

#[test]
fn the_initial_user_namespace_is_known_by_its_map() {
    assert!(is_initial_uid_map(b"         0          0 4294967295\n"));
    assert!(!is_initial_uid_map(b"         0     100000      65536\n"));
    assert!(!is_initial_uid_map(b"         0          0          1\n      1     100000      65536\n"));
    assert!(!is_initial_uid_map(b""));
}

#[test]
fn hierarchies_of_a_hybrid_machine() {
    let all = hierarchies(
        b"9:name=systemd:/pod/c\n4:memory:/pod/c\n3:cpu,cpuacct:/pod/a:b\n0::/pod/c (deleted)\njunk\n7:x\n5:pids:relative\n",
    );
    assert_eq!(all.len(), 4);
    assert!(all[2].has("cpu") && all[2].has("cpuacct") && !all[2].has("cpuset"));
    assert_eq!(all[2].path, b"/pod/a:b");
    assert!(all[0].has("name=systemd") && !all[0].is_v2());
    assert!(all[3].is_v2() && all[3].deleted);
    assert_eq!(all[3].path, b"/pod/c");
}

#[test]
fn flat_keys_of_both_versions() {
    // Linux 6.18, v1 and v2.
    let v1 = b"nr_periods 12\nnr_throttled 7\nthrottled_time 1200345\nnr_bursts 0\nburst_time 0\n";
    let v2 = b"usage_usec 732087042\nuser_usec 534394879\nsystem_usec 197692163\nnice_usec 0\n";
    assert_eq!(keyed(v1, "throttled_time"), Some(1_200_345));
    assert_eq!(keyed(v1, "throttled_usec"), None);
    assert_eq!(keyed(v2, "usage_usec"), Some(732_087_042));
    assert_eq!(keyed(v2, "nr_periods"), None);
    // `oom` is not `oom_kill`.
    let events = b"low 0\nhigh 3\nmax 55\noom 2\noom_kill 1\noom_group_kill 0\n";
    assert_eq!((keyed(events, "oom"), keyed(events, "oom_kill")), (Some(2), Some(1)));
    assert_eq!(keyed(b"oom_kill", "oom_kill"), None);
    assert_eq!(keyed(b"oom_kill many\n", "oom_kill"), None);
}

#[test]
fn pressure_keeps_two_decimals() {
    let (some, full) = pressure(
        b"some avg10=0.12 avg60=3.07 avg300=100.00 total=76090577\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
    );
    assert_eq!(some, Some(Stall { averages: [Some(12), Some(307), Some(10_000)], total_us: Some(76_090_577) }));
    assert_eq!(full.and_then(|full| full.total_us), Some(0));
    // `cpu` had no `full` line before Linux 5.13.
    assert_eq!(pressure(b"some avg10=0.00 avg60=0.00 avg300=0.00 total=5\n").1, None);
    assert_eq!(pressure(b"some avg10=x avg60=1 new=3 total=\n").0, Some(Stall::default()));
    assert_eq!(pressure(b""), (None, None));
}

#[test]
fn devices_of_both_versions() {
    // From cgroup-v2.rst.
    let mut seen = Vec::new();
    let text = b"8:16 rbytes=1459200 wbytes=314773504 rios=192 wios=353 dbytes=0 dios=0\n8:0 rbytes=90430464\n8:32 \njunk x=1\n";
    nested_keyed(text, |device, key, value| seen.push((device, key.to_vec(), value.to_vec())));
    assert_eq!(seen.len(), 7);
    assert_eq!(seen[1], ((8, 16), b"wbytes".to_vec(), b"314773504".to_vec()));
    assert_eq!(seen[6], ((8, 0), b"rbytes".to_vec(), b"90430464".to_vec()));
    // Linux 6.18, v1.
    let mut seen = Vec::new();
    let text = b"254:0 Read 4096\n254:0 Write 8192\n254:0 Total 12288\nTotal 12288\n254:0 1048576\n254:0 Read x\n";
    blkio(text, |device, key, value| seen.push((device, key.to_vec(), value)));
    assert_eq!(seen.len(), 4);
    assert_eq!(seen[1], ((254, 0), b"Write".to_vec(), 8192));
    assert_eq!(seen[3], ((254, 0), Vec::new(), 1_048_576));
}

#[test]
fn garbage_never_panics() {
    let mut seed = 7_u64;
    for length in 0..300 {
        let bytes: Vec<u8> = (0..length)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                b"0189 :=.,-\nmaxsomefull\xff/"[(seed >> 56) as usize % 24]
            })
            .collect();
        let _ = (rlimits(&bytes), bound(&bytes), v1_bytes(&bytes), v1_quota(&bytes), cpu_max(&bytes), cpus(&bytes));
        let _ = (status_use(&bytes), hierarchies(&bytes), keyed(&bytes, "some"), pressure(&bytes));
        nested_keyed(&bytes, |_, _, _| {});
        blkio(&bytes, |_, _, _| {});
    }
}
