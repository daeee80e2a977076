//! The running components as a CycloneDX 1.6 SBOM in JSON (ECMA-424), with package
//! URLs (ECMA-427) and CPE names, by which scanners look for vulnerabilities.
//!
//! A component is: each module (type `file`), the package that owns it, each Go
//! module and crate that was linked into it, each runtime that its data names, and
//! the distribution. What depends on what stands in `dependencies`: a module on
//! the modules it needs and on what it was built from.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use agent_model::{Listing, Text};
use agent_system::Enveloped;
use serde_json::{Map, Value, json};

use super::row::{Row, Summary};
use crate::packages::{OsRelease, Package};
use crate::provenance::go::Module;
use crate::provenance::runtime::Runtime;

/// Components by their reference, and what depends on what.
#[derive(Default)]
struct Bom {
    components: BTreeMap<String, Value>,
    dependencies: BTreeMap<String, BTreeSet<String>>,
    /// Where the components were seen.
    places: BTreeMap<String, BTreeSet<String>>,
}

impl Bom {
    fn add(&mut self, reference: String, from: &str, place: &Text, component: impl FnOnce() -> Value) {
        self.components.entry(reference.clone()).or_insert_with(component);
        self.places.entry(reference.clone()).or_default().insert(place.as_str().to_owned());
        if reference != from {
            self.dependencies.entry(from.to_owned()).or_default().insert(reference);
        }
    }
}

/// Writes the SBOM of `data`. All but `metadata.timestamp` and `metadata.tools`
/// follows from the data.
///
/// # Errors
///
/// When it cannot be written.
pub fn write(envelope: &Enveloped<'_>, data: &Listing<Row, Summary>, out: &mut dyn io::Write) -> io::Result<()> {
    const TARGET: &str = "target";
    let mut bom = Bom::default();
    let os = data.summary.os_release.as_ref();
    let references = module_references(&data.rows);
    let by_path: BTreeMap<&str, &String> =
        data.rows.iter().zip(&references).map(|(row, reference)| (row.path.as_str(), reference)).collect();
    let mut all = BTreeSet::new();
    for (row, reference) in data.rows.iter().zip(&references) {
        all.insert(reference.clone());
        bom.add(reference.clone(), reference, &row.path, || module(row, reference));
        for needed in row.needed.iter().flatten().filter_map(|needed| needed.path.as_ref()) {
            if let Some(other) = by_path.get(needed.as_str()).filter(|other| **other != reference) {
                bom.dependencies.entry(reference.clone()).or_default().insert((*other).clone());
            }
        }
        built_from(&mut bom, row, reference, os);
    }
    if let Some(component) = os.and_then(operating_system) {
        bom.components.insert("os".to_owned(), component);
        all.insert("os".to_owned());
    }
    bom.dependencies.entry(TARGET.to_owned()).or_default().extend(all);
    let target = envelope.target.as_ref();
    let mut properties = vec![property("agent:session.id", &envelope.session.id)];
    properties.extend(envelope.resource.iter().map(|(key, value)| property(key, value)));
    let value = json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": serial_number(&envelope.digest),
        "version": 1,
        "metadata": {
            "timestamp": envelope.observed.start,
            "lifecycles": [{"phase": "operations"}],
            "tools": {"components": [{"type": "application", "name": "agent", "version": envelope.agent.version}]},
            "component": {
                "type": "application",
                "bom-ref": TARGET,
                "name": target.map_or("target", |target| target.name.as_str()),
            },
            "properties": properties,
        },
        "components": bom.components.into_iter().map(|(reference, component)| {
            seen_at(component, bom.places.get(&reference).filter(|_| !reference.starts_with("module:")))
        }).collect::<Vec<_>>(),
        "dependencies": bom.dependencies.iter().map(|(reference, on)| {
            json!({"ref": reference, "dependsOn": on})
        }).collect::<Vec<_>>(),
    });
    serde_json::to_writer(&mut *out, &value)?;
    out.write_all(b"\n")
}

/// A reference for each row: its path, and a number where one path has two files.
fn module_references(rows: &[Row]) -> Vec<String> {
    let mut used: BTreeMap<&str, u32> = BTreeMap::new();
    rows.iter()
        .map(|row| {
            let count = used.entry(row.path.as_str()).or_default();
            *count += 1;
            if *count == 1 { format!("module:{}", row.path) } else { format!("module:{}#{count}", row.path) }
        })
        .collect()
}

fn property(name: &str, value: &impl ToString) -> Value {
    json!({"name": name, "value": value.to_string()})
}

/// A version 8 UUID (RFC 9562) of the digest: the same data has the same.
fn serial_number(digest: &str) -> String {
    let hex: Vec<char> = digest.chars().skip_while(|c| *c != ':').skip(1).take(32).collect();
    let mut digits = [&hex[..], &vec!['0'; 32 - hex.len()]].concat();
    digits[12] = '8';
    digits[16] = 'a';
    let part = |range: std::ops::Range<usize>| digits[range].iter().collect::<String>();
    format!("urn:uuid:{}-{}-{}-{}-{}", part(0..8), part(8..12), part(12..16), part(16..20), part(20..32))
}

fn seen_at(mut component: Value, places: Option<&BTreeSet<String>>) -> Value {
    if let (Some(places), Some(members)) = (places, component.as_object_mut()) {
        let occurrences: Vec<Value> = places.iter().map(|place| json!({"location": place})).collect();
        members.insert("evidence".to_owned(), json!({"occurrences": occurrences}));
    }
    component
}

fn module(row: &Row, reference: &str) -> Value {
    let mut component = Map::new();
    let mut put = |key: &str, value: Value| component.insert(key.to_owned(), value);
    put("type", json!("file"));
    put("bom-ref", json!(reference));
    put("name", json!(row.path));
    if let Some(package) = &row.package
        && let Some(version) = &package.version
    {
        put("version", json!(version));
    }
    if let Some(sha256) = &row.sha256 {
        put("hashes", json!([{"alg": "SHA-256", "content": sha256}]));
    }
    let mut properties = Vec::new();
    let mut tell = |name: &str, value: Option<String>| properties.extend(value.map(|value| property(name, &value)));
    tell("agent:build_id", row.build_id.clone());
    tell("agent:go_build_id", row.go_build_id.as_ref().map(Text::to_string));
    tell("agent:type", row.kind.map(str::to_owned));
    tell("agent:machine", row.machine.clone());
    tell("agent:soname", row.soname.as_ref().map(Text::to_string));
    tell("agent:loaded", row.loaded.map(str::to_owned));
    for (name, holds) in [
        ("agent:deleted", row.deleted),
        ("agent:replaced", row.replaced),
        ("agent:outside_image", row.outside_image == Some(true)),
    ] {
        tell(name, holds.then(|| "true".to_owned()));
    }
    put("properties", json!(properties));
    Value::Object(component)
}

/// What a module was built from, and the package that it came in.
fn built_from(bom: &mut Bom, row: &Row, reference: &str, os: Option<&OsRelease>) {
    if let Some(package) = &row.package {
        let url = package_url(package, os);
        bom.add(url.clone(), reference, &row.path, || {
            library(&url, &package.name, package.version.as_ref(), Some(&url), None)
        });
    }
    if let Some(go) = &row.go {
        for module in go.main.iter().chain(&go.dependencies) {
            let module = module.replaced_by.as_deref().filter(|other| is_released(other)).unwrap_or(module);
            let version = Some(&module.version).filter(|version| !version.is_empty() && is_released(module));
            let url = go_url(module, version);
            bom.add(url.clone(), reference, &row.path, || library(&url, &module.path, version, Some(&url), None));
        }
    }
    for one in row.crates.iter().flatten().filter(|one| one.kind == "runtime") {
        let url = format!("pkg:cargo/{}@{}", encode(one.name.as_str()), encode(one.version.as_str()));
        bom.add(url.clone(), reference, &row.path, || library(&url, &one.name, Some(&one.version), Some(&url), None));
    }
    for runtime in &row.runtimes {
        let url = format!("pkg:generic/{}@{}", runtime.name, encode(runtime.version.as_str()));
        let cpe = cpe(runtime);
        bom.add(url.clone(), reference, &row.path, || {
            library(&url, &runtime.name.into(), Some(&runtime.version), Some(&url), cpe)
        });
    }
}

fn is_released(module: &Module) -> bool {
    module.version.as_str().starts_with('v')
}

fn library(reference: &str, name: &Text, version: Option<&Text>, url: Option<&str>, cpe: Option<String>) -> Value {
    let mut component = json!({"type": "library", "bom-ref": reference, "name": name});
    let members =
        [("version", version.map(|v| json!(v))), ("cpe", cpe.map(|c| json!(c))), ("purl", url.map(|u| json!(u)))];
    for (key, value) in members {
        if let Some(value) = value {
            component[key] = value;
        }
    }
    component
}

fn operating_system(os: &OsRelease) -> Option<Value> {
    let mut component = json!({"type": "operating-system", "bom-ref": "os", "name": os.id.as_ref()?});
    if let Some(version) = &os.version_id {
        component["version"] = json!(version);
    }
    if let Some(name) = &os.pretty_name {
        component["description"] = json!(name);
    }
    Some(component)
}

/// Percent-encodes all that a part of a package URL does not hold as it is.
fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b".-_~:".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn package_url(package: &Package, os: Option<&OsRelease>) -> String {
    let kind = if package.manager == "dpkg" { "deb" } else { package.manager };
    let usual = if kind == "apk" { "alpine" } else { "debian" };
    let id = os.and_then(|os| os.id.as_ref()).map_or(usual, Text::as_str);
    let mut url = format!("pkg:{kind}/{}/{}", encode(&id.to_lowercase()), encode(package.name.as_str()));
    if let Some(version) = &package.version {
        url.push_str(&format!("@{}", encode(version.as_str())));
    }
    let mut qualifiers = Vec::new();
    if let Some(architecture) = &package.architecture {
        qualifiers.push(format!("arch={}", encode(architecture.as_str())));
    }
    if let Some(version) = os.and_then(|os| os.version_id.as_ref()) {
        qualifiers.push(format!("distro={}-{}", encode(id), encode(version.as_str())));
    }
    if !qualifiers.is_empty() {
        url.push_str(&format!("?{}", qualifiers.join("&")));
    }
    url
}

fn go_url(module: &Module, version: Option<&Text>) -> String {
    let path: Vec<String> = module.path.as_str().to_lowercase().split('/').map(encode).collect();
    let version = version.map_or_else(String::new, |version| format!("@{}", encode(version.as_str())));
    format!("pkg:golang/{}{version}", path.join("/"))
}

/// The name of a runtime in the dictionary of CPE (NISTIR 7695).
fn cpe(runtime: &Runtime) -> Option<String> {
    let (vendor, product) = match runtime.name {
        "cpython" => ("python", "python"),
        "openjdk" => ("oracle", "openjdk"),
        "node" => ("nodejs", "node.js"),
        "ruby" => ("ruby-lang", "ruby"),
        "php" => ("php", "php"),
        "dotnet" => ("microsoft", ".net"),
        "go" => ("golang", "go"),
        "glibc" => ("gnu", "glibc"),
        "musl" => ("musl-libc", "musl"),
        "openssl" => ("openssl", "openssl"),
        _ => return None,
    };
    // What follows the plain version is a build's own.
    let version = runtime.version.as_str();
    let end = version.find(|c: char| !c.is_ascii_alphanumeric() && c != '.').unwrap_or(version.len());
    (end > 0).then(|| format!("cpe:2.3:a:{vendor}:{product}:{}:*:*:*:*:*:*:*", &version[..end]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_urls_are_as_the_specification_has_them() {
        let mut package = Package {
            manager: "dpkg",
            name: "libstdc++6".into(),
            version: Some("1:12.2.0-14+deb12u1~x".into()),
            architecture: Some("amd64".into()),
            source: None,
        };
        let os = OsRelease { id: Some("debian".into()), version_id: Some("12".into()), ..OsRelease::default() };
        let url = "pkg:deb/debian/libstdc%2B%2B6@1:12.2.0-14%2Bdeb12u1~x?arch=amd64&distro=debian-12";
        assert_eq!(package_url(&package, Some(&os)), url);
        package.manager = "apk";
        package.version = None;
        package.architecture = None;
        assert_eq!(package_url(&package, None), "pkg:apk/alpine/libstdc%2B%2B6");
        let module =
            Module { path: "github.com/BurntSushi/toml".into(), version: "v1.3.2".into(), ..Module::default() };
        assert_eq!(go_url(&module, Some(&module.version)), "pkg:golang/github.com/burntsushi/toml@v1.3.2");
    }

    #[test]
    fn serial_numbers_are_uuids_whatever_the_digest() {
        let of = serial_number("sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef");
        assert_eq!(of, "urn:uuid:01234567-89ab-8def-a123-456789abcdef");
        assert_eq!(serial_number("").len(), of.len());
    }

    #[test]
    fn cpe_names_end_with_the_plain_version() {
        let runtime = Runtime { name: "openjdk", version: "17.0.15+6-Debian".into() };
        assert_eq!(cpe(&runtime).unwrap(), "cpe:2.3:a:oracle:openjdk:17.0.15:*:*:*:*:*:*:*");
    }
}
