//! Where a module comes from: its package, its SBOM, what Go and Rust say of their parts.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use serde_json::{Value, json as value};

use super::common::{self, Child, gaps_at, has_tool, json, row, rows, run, skip};
use super::{MAPPER, has_runtime, library, loader, modules, output, python, text};

#[test]
fn owners_are_those_that_dpkg_names() {
    if !has_tool("dpkg-query") {
        return skip("owners_are_those_that_dpkg_names", "no dpkg");
    }
    let child = Child::ready(Command::new(loader()).arg(library()));
    let answer = modules(&child, &["--packages"]);
    let mut compared = 0;
    for row in rows(&answer) {
        let path = row["path"].as_str().unwrap();
        let short = path.strip_prefix("/usr").unwrap_or(path);
        let said = [path, short].iter().find_map(|path| output("dpkg-query", &["-S", path]));
        let owner = said.as_deref().and_then(|said| said.split(": ").next()).map(str::to_owned);
        let name = row["package"]["name"].as_str();
        assert_eq!(name, owner.as_deref().and_then(|owner| owner.split(':').next()), "{path}");
        if let Some(owner) = owner {
            let format = "--showformat=${Version} ${Architecture} ${source:Package}";
            let said = output("dpkg-query", &["-W", format, &owner]).unwrap();
            let package = &row["package"];
            let source = package["source"].as_str().or(name).unwrap();
            let ours = format!(
                "{} {} {source}",
                package["version"].as_str().unwrap(),
                package["architecture"].as_str().unwrap()
            );
            assert_eq!(ours, said, "{path}");
            compared += 1;
        }
    }
    assert!(compared >= 2, "libc and the loader have an owner");
}

#[test]
fn an_sbom_is_valid_against_the_published_schema() {
    const NAME: &str = "an_sbom_is_valid_against_the_published_schema";
    // The schemas of the CycloneDX project, as its own library carries them.
    let Some(package) = common::packages::from_pypi("cyclonedx-python-lib==11.12.0") else {
        return skip(NAME, "no pip, or no registry");
    };
    let schema = |name: &str| -> Value {
        let path = package.join("cyclonedx/schema/_res").join(format!("{name}.SNAPSHOT.schema.json"));
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    };
    let mut options = jsonschema::options();
    let mut resources = jsonschema::Registry::new();
    for name in ["spdx", "jsf-0.82", "cryptography-defs"] {
        let text = schema(name);
        let id = format!("http://cyclonedx.org/schema/{name}.schema.json");
        resources = resources.add(id.clone(), jsonschema::Resource::from_contents(text.clone())).expect("a resource");
        let snapshot = format!("http://cyclonedx.org/schema/{name}.SNAPSHOT.schema.json");
        resources = resources.add(snapshot, jsonschema::Resource::from_contents(text)).expect("a resource");
    }
    let registry = resources.prepare().expect("a registry");
    options = options.with_registry(&registry);
    let validator = options.build(&schema("bom-1.6")).expect("the published schema");

    let Some(child) = python() else { return skip(NAME, "no python3") };
    let pid = child.pid().to_string();
    let answer = run(["modules", "--pid", &pid, "--hash", "-o", "cyclonedx"]);
    assert_eq!(answer.status, 0, "{}", answer.stderr);
    let bom: Value = serde_json::from_slice(&answer.stdout).unwrap();
    let errors: Vec<String> =
        validator.iter_errors(&bom).take(5).map(|error| format!("{error} at {}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{}", errors.join("\n"));
    // It says no when there is something wrong.
    let mut wrong = bom.clone();
    wrong["components"][0]["type"] = value!("nonsense");
    assert!(!validator.is_valid(&wrong));

    let components = bom["components"].as_array().unwrap();
    let with = |key: &str, prefix: &str| {
        components.iter().any(|one| one[key].as_str().is_some_and(|value| value.starts_with(prefix)))
    };
    assert!(with("bom-ref", "module:") && with("cpe", "cpe:2.3:a:python:python:3."));
    if has_tool("dpkg-query") {
        assert!(with("purl", "pkg:deb/"));
    }
    // Each reference leads somewhere, and the same state gives the same SBOM.
    let mut references: BTreeSet<&str> = components.iter().map(|one| one["bom-ref"].as_str().unwrap()).collect();
    assert_eq!(references.len(), components.len());
    references.insert("target");
    for one in bom["dependencies"].as_array().unwrap() {
        let on = one["dependsOn"].as_array().unwrap().iter().chain([&one["ref"]]);
        assert!(on.into_iter().all(|reference| references.contains(reference.as_str().unwrap())));
    }
    let again: Value =
        serde_json::from_slice(&run(["modules", "--pid", &pid, "--hash", "-o", "cyclonedx"]).stdout).unwrap();
    assert_eq!((&bom["components"], &bom["serialNumber"]), (&again["components"], &again["serialNumber"]));
    let refused = run(["ps", "-o", "cyclonedx"]);
    assert_eq!(refused.status, 2, "another command has no such format");
}

#[test]
fn build_information_of_go_is_what_go_version_says() {
    const NAME: &str = "build_information_of_go_is_what_go_version_says";
    let Some(go) = common::packages::go(common::packages::GO) else {
        return skip(NAME, "no Go, and none from the registry");
    };
    let directory = tempfile::tempdir().unwrap();
    let place = fs::canonicalize(directory.path()).unwrap();
    let write = |name: &str, text: &str| {
        fs::create_dir_all(place.join(name).parent().unwrap()).unwrap();
        fs::write(place.join(name), text).unwrap();
    };
    write("dep/go.mod", "module example.com/dep\n\ngo 1.20\n");
    write("dep/dep.go", "package dep\n\nfunc Ready() string { return \"\\\"ready\\\"\" }\n");
    write(
        "app/go.mod",
        "module example.com/app\n\ngo 1.20\n\nrequire example.com/dep v0.3.1\n\nreplace example.com/dep => ../dep\n",
    );
    let program = "package main\n\nimport (\n\t\"fmt\"\n\t\"os\"\n\n\t\"example.com/dep\"\n)\n\n\
        func main() {\n\tfmt.Println(dep.Ready())\n\tos.Stdin.Read(make([]byte, 1))\n}\n";
    write("app/main.go", program);
    let mut command = Command::new(&go);
    let built = command
        .args(["build", "-ldflags=-X main.v=1 -s", "-o", "../program"])
        .current_dir(place.join("app"))
        .env("HOME", &place)
        .env("GOFLAGS", "-mod=mod")
        .env("GOPROXY", "off")
        .env("GOTOOLCHAIN", "local")
        .env("CGO_ENABLED", "0")
        .output()
        .unwrap();
    if !built.status.success() {
        return skip(NAME, &format!("go build: {}", String::from_utf8_lossy(&built.stderr)));
    }
    let program = place.join("program");
    let said = output(&go, &["version", "-m", text(&program)]).expect("go version -m");
    let child = Child::ready(&mut Command::new(&program));
    let check = |answer: &Value| {
        let row = row(answer, "path", text(&program));
        let build = &row["go"];
        // As `go version -m` writes it.
        let mut lines = vec![format!("{}: {}", text(&program), build["go_version"].as_str().unwrap())];
        let module = |word: &str, module: &Value| {
            let field = |key: &str| module[key].as_str().unwrap_or_default().to_owned();
            format!("\t{word}\t{}\t{}\t{}", field("path"), field("version"), field("sum"))
        };
        lines.push(format!("\tpath\t{}", build["path"].as_str().unwrap()));
        lines.push(module("mod", &build["main"]));
        for one in build["dependencies"].as_array().unwrap() {
            lines.push(module("dep", one).trim_end().to_owned());
            if one["replaced_by"].is_object() {
                lines.push(module("=>", &one["replaced_by"]));
            }
        }
        for one in build["settings"].as_array().unwrap() {
            let (key, value) = (one["key"].as_str().unwrap(), one["value"].as_str().unwrap());
            let quoted = if value.contains([' ', '"']) { format!("\"{value}\"") } else { value.to_owned() };
            lines.push(format!("\tbuild\t{key}={quoted}"));
        }
        let ours: Vec<&str> = lines.iter().map(|line| line.trim_end()).collect();
        let theirs: Vec<&str> = said.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        assert_eq!(ours, theirs);
        let version = build["go_version"].as_str().unwrap().strip_prefix("go").unwrap();
        assert_eq!(has_runtime(answer, "go"), [version]);
        assert!(row["go_build_id"].is_string() && row["hardening"]["stack_protector"] != true);
    };
    check(&modules(&child, &[]));
    // A deleted executable is read all the same.
    fs::remove_file(&program).unwrap();
    check(&modules(&child, &[]));
}

#[test]
fn a_crate_list_of_cargo_auditable_and_a_package_note_are_read() {
    const NAME: &str = "a_crate_list_of_cargo_auditable_and_a_package_note_are_read";
    if !has_tool("objcopy") {
        return skip(NAME, "no objcopy");
    }
    let directory = tempfile::tempdir().unwrap();
    let place = fs::canonicalize(directory.path()).unwrap();
    let list = r#"{"packages":[{"name":"app","version":"0.1.0","source":"local","root":true,"dependencies":[1]},
        {"name":"serde","version":"1.0.200","source":"crates.io"}]}"#;
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut encoder, list.as_bytes()).unwrap();
    fs::write(place.join("list"), encoder.finish().unwrap()).unwrap();
    let note = r#"{"type":"deb","name":"app","version":"1.0-1"}"#;
    // binutils writes the note since 2.39.
    let flag = format!("--package-metadata={note}");
    let supported = output("ld", &["--help"]).is_some_and(|help| help.contains("--package-metadata"));
    let flags = if supported { vec!["-O1", "-Xlinker", flag.as_str()] } else { vec!["-O1", "-g0"] };
    let plain = common::compile_c(MAPPER, &flags);
    let program = place.join("app");
    let section = format!(".dep-v0={}", text(&place.join("list")));
    let done = Command::new("objcopy").args(["--add-section", &section]).arg(&plain).arg(&program).status().unwrap();
    assert!(done.success());
    let child = Child::ready(&mut Command::new(&program));
    let answer = modules(&child, &[]);
    let row = row(&answer, "path", text(&program));
    let crates: Vec<(&str, &str)> = row["crates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["name"].as_str().unwrap(), one["version"].as_str().unwrap()))
        .collect();
    assert_eq!(crates, [("app", "0.1.0"), ("serde", "1.0.200")]);
    if supported {
        assert_eq!(row["package_note"], note);
    }
    let compilers = row["compilers"].as_array().unwrap();
    assert!(
        compilers
            .iter()
            .any(|one| one.as_str().unwrap().starts_with("GCC: ") || one.as_str().unwrap().contains("clang"))
    );
}

#[test]
fn owners_are_those_that_rpm_names() {
    const NAME: &str = "owners_are_those_that_rpm_names";
    if !common::is_root() || !has_tool("rpmbuild") || !has_tool("rpm") {
        return skip(NAME, "no rpm and rpmbuild, or not root");
    }
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("root");
    let waits = "#include <stdio.h>\n#include <unistd.h>\nint main(void) { puts(\"ready\"); fflush(stdout); for (;;) pause(); }\n";
    let program = common::compile_c(waits, &["-O2", "-static"]);
    // Many packages, so that the table has more than one page, and one whose header spills over many.
    let mut packages = Vec::new();
    for index in 0..12 {
        let many: String = (0..if index == 5 { 2_000 } else { 1 })
            .map(|file| format!("echo x > %{{buildroot}}/opt/p{index}/{file}\n"))
            .collect();
        let spec = format!(
            "Name: agent-test-{index}\nVersion: 1.{index}\nRelease: 7\nEpoch: 3\nSummary: a test\nLicense: MIT\n\
             %define __os_install_post %{{nil}}\n%define _build_id_links none\n%global debug_package %{{nil}}\n%description\na test\n\
             %install\nmkdir -p %{{buildroot}}/opt/p{index}\n{many}install -m 755 {} %{{buildroot}}/opt/p{index}/program\n\
             %files\n/opt/p{index}\n",
            program.display()
        );
        let file = place.path().join(format!("{index}.spec"));
        fs::write(&file, spec).unwrap();
        let top = format!("_topdir {}/build", place.path().display());
        let built = Command::new("rpmbuild").args(["-bb", "--quiet", "--define", &top]).arg(&file).output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        packages
            .push(format!("{}/build/RPMS/x86_64/agent-test-{index}-1.{index}-7.x86_64.rpm", place.path().display()));
    }
    fs::create_dir_all(&root).unwrap();
    let rpm = |arguments: &[&str]| {
        let mut command = Command::new("rpm");
        command.arg("--root").arg(&root).args(["--define", "_dbpath /var/lib/rpm", "--define", "_db_backend sqlite"]);
        command.args(arguments).output().unwrap()
    };
    let arguments: Vec<&str> = ["-i", "--nodeps", "--noscripts", "--force-debian"]
        .into_iter()
        .chain(packages.iter().map(String::as_str))
        .collect();
    let installed = rpm(&arguments);
    assert!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));
    let look = |path: &str| {
        // What is mounted from elsewhere is no file of the image's packages.
        let script = format!("mkdir -p $(dirname {path}) && cp /source{path} {path} && exec {path}");
        let mounts = [("opt", "/source/opt"), ("var/lib/rpm", "/var/lib/rpm")];
        let spec = agent_pod::PodSpec::new("rpm", ["sh".to_owned(), "-c".to_owned(), script]);
        let spec = mounts.into_iter().fold(spec, |spec, (from, to)| spec.mount_read_only(root.join(from), to));
        let pod = agent_pod::Pod::start(spec).unwrap();
        pod.wait_for_output("ready", common::SOON).unwrap();
        json(["modules", "--packages", "--allow-gaps", "--pid", &pod.target_pid().as_raw_nonzero().get().to_string()])
    };
    for index in [0, 5, 11] {
        let path = format!("/opt/p{index}/program");
        let answer = look(&path);
        let package = &row(&answer, "path", path.as_str())["package"];
        let said = rpm(&["-qf", "--queryformat", "%{NAME} %{EPOCH}:%{VERSION}-%{RELEASE} %{ARCH} %{SOURCERPM}", &path]);
        let ours = ["name", "version", "architecture", "source"].map(|key| package[key].as_str().unwrap_or_default());
        assert_eq!(ours.join(" "), String::from_utf8(said.stdout).unwrap());
        assert_eq!(package["manager"], "rpm");
    }
    // A database that is cut off names nobody, and that is a gap.
    let database = root.join("var/lib/rpm/rpmdb.sqlite");
    let whole = fs::metadata(&database).unwrap().len();
    fs::File::options().write(true).open(&database).unwrap().set_len(whole / 2).unwrap();
    let answer = look("/opt/p0/program");
    assert_eq!(gaps_at(&answer, "/rows")[0]["reason"], "malformed", "{}", answer["gaps"]);
}
