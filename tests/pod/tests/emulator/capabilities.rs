//! Identity of the container by profile, and the single facts about capabilities.

use agent_pod::{CapSet, DebugSpec, FileCaps, Image, PodError, PodSpec, Profile};
use serde_json::{Value, json};

use crate::{debug, root_image, sample, shipped_image, start};

fn identity(out: &agent_pod::Output) -> Value {
    out.json().unwrap_or_else(|error| panic!("{error}: {out:?}"))["self"].clone()
}

fn hex(set: CapSet) -> Value {
    if set == CapSet::NONE { json!("") } else { json!(format!("{:x}", set.0)) }
}

/// On this kind of machine `sysadmin` may be less than all: a privileged container gets what its runtime has.
#[test]
fn each_profile_has_its_capabilities_user_and_filter() {
    let image = root_image();
    for (spec, seccomp, uid) in [
        (sample(), "0", "0"),
        (sample().seccomp_runtime_default(), "2", "0"),
        (sample().pod_user(1000, 2000).seccomp_runtime_default(), "2", "1000"),
    ] {
        let pod = start(spec);
        for profile in Profile::ALL {
            let restricted = profile == Profile::Restricted;
            if restricted && uid == "0" {
                continue;
            }
            let bounding = profile.capabilities() & CapSet::current_bounding();
            let effective = if uid == "0" { bounding } else { CapSet::NONE };
            let found = identity(&debug(&pod, &image, profile, []));
            let expected = json!({
                "Uid": uid, "Gid": if uid == "0" { "0" } else { "2000" },
                "CapInh": "", "CapPrm": hex(effective), "CapEff": hex(effective), "CapBnd": hex(bounding), "CapAmb": "",
                "NoNewPrivs": if restricted { "1" } else { "0" },
                "Seccomp": if profile == Profile::Sysadmin { "0" } else { seccomp },
                "pid": found["pid"],
            });
            assert_eq!(found, expected, "{profile:?}");
        }
    }
}

#[test]
fn file_capabilities_are_permitted_and_not_effective() {
    let (pod, image) = (start(sample()), shipped_image());
    for profile in Profile::ALL {
        let found = identity(&debug(&pod, &image, profile, []));
        assert_eq!(found["CapEff"], "", "{profile:?}");
        // no_new_privs voids them; otherwise the kernel cuts them to the bounding set.
        let permitted = if profile == Profile::Restricted { &json!("") } else { &found["CapBnd"] };
        assert_eq!(found["CapPrm"], *permitted, "{profile:?}");
        assert_eq!(found["Uid"], "65532", "{profile:?}");
    }
}

/// The kernel refuses to execute a file whose effective capabilities the bounding set does not have.
#[test]
fn effective_file_capabilities_do_not_start_without_the_bound() {
    let caps = FileCaps::Set { permitted: CapSet::SYS_PTRACE, effective: true };
    let image = Image::from_binary(env!("CARGO_BIN_EXE_probe"), "65532:65532", caps).unwrap();
    let pod = start(sample());
    for (profile, starts) in [(Profile::Legacy, false), (Profile::Restricted, false), (Profile::General, true)] {
        let out = pod.debug(DebugSpec::new(&image, profile, ["agent"]).target());
        match out {
            Ok(out) if starts => assert_eq!(identity(&out)["CapEff"], hex(CapSet::SYS_PTRACE)),
            Ok(out) => assert!(out.stderr_text().contains("operation not permitted"), "{profile:?}: {out:?}"),
            Err(PodError::Start { message, .. }) if !starts => {
                assert!(message.contains("operation not permitted"), "{profile:?}: {message}");
            }
            Err(error) => panic!("{profile:?}: {error}"),
        }
    }
}

#[test]
fn another_user_without_file_capabilities_is_denied_everything() {
    let image = Image::from_binary(env!("CARGO_BIN_EXE_probe"), "65532", FileCaps::None).unwrap();
    let report = debug(&start(sample()), &image, Profile::General, ["--raise"]).json().unwrap();
    assert_eq!(report["self"]["Gid"], "0", "a bare UID has group 0 where there is no /etc/passwd");
    for name in ["maps", "mem", "fd", "exe", "root"] {
        assert_eq!(report["proc"][name], "EACCES", "{name}");
    }
    assert_eq!(report["calls"]["ptrace"], "EPERM");
}

#[test]
fn target_with_a_capability_that_we_lack_needs_general() {
    let pod = start(sample().capabilities(CapSet::RUNTIME_DEFAULT | CapSet::NET_ADMIN));
    let image = root_image();
    for (profile, file, call) in
        [(Profile::Legacy, "EACCES", "EPERM"), (Profile::Netadmin, "ok", "ok"), (Profile::General, "ok", "ok")]
    {
        let report = debug(&pod, &image, profile, []).json().unwrap();
        assert_eq!((&report["proc"]["mem"], &report["calls"]["ptrace"]), (&json!(file), &json!(call)), "{profile:?}");
    }
}

#[test]
fn undumpable_target_is_denied_in_every_profile() {
    let spec = PodSpec::new("web", ["/probe", "target", "--undumpable"]).pod_user(1000, 1000);
    let pod = start(spec.mount_read_only(env!("CARGO_BIN_EXE_probe"), "/probe"));
    let image = root_image();
    for profile in Profile::ALL {
        let report = debug(&pod, &image, profile, []).json().unwrap();
        for name in ["maps", "mem", "environ", "fd", "exe", "root"] {
            assert_eq!(report["proc"][name], "EACCES", "{name} under {profile:?}");
        }
        assert_eq!(report["calls"]["ptrace"], "EPERM", "{profile:?}");
    }
}

#[test]
fn newer_containerd_lets_every_container_read_memory() {
    let pod = start(sample().seccomp_runtime_default().containerd(agent_pod::Containerd::V2));
    let report = debug(&pod, &root_image(), Profile::Legacy, []).json().unwrap();
    assert_eq!(report["calls"]["process_vm_readv"], "ok");
    assert_eq!(report["calls"]["pidfd_getfd"], "EPERM");
}
