//! How modules came to be mapped, from who needs whom.

use std::collections::HashMap;

use agent_system::{Failure, Process};

/// The names that a module can be asked for by, and the names that it asks for.
#[derive(Debug, Clone, Default)]
pub struct Links<'a> {
    /// Its path.
    pub path: &'a [u8],
    /// DT_SONAME.
    pub soname: Option<&'a [u8]>,
    /// PT_INTERP.
    pub interpreter: Option<&'a [u8]>,
    /// DT_NEEDED.
    pub needed: Vec<&'a [u8]>,
}

/// What stands behind the last slash.
pub fn base(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

/// Finds modules by the names that others ask for.
#[derive(Debug)]
pub struct Index<'a> {
    by_name: HashMap<&'a [u8], usize>,
    by_path: HashMap<&'a [u8], usize>,
}

impl<'a> Index<'a> {
    /// Of the modules of one process. The dynamic loader matches DT_SONAME and the
    /// name that a library was opened by, which its path ends in.
    pub fn new(modules: &[Links<'a>]) -> Self {
        let mut by_name = HashMap::new();
        let mut by_path = HashMap::new();
        for (at, module) in modules.iter().enumerate() {
            by_path.entry(module.path).or_insert(at);
            if let Some(soname) = module.soname {
                by_name.entry(soname).or_insert(at);
            }
        }
        for (at, module) in modules.iter().enumerate() {
            by_name.entry(base(module.path)).or_insert(at);
        }
        Self { by_name, by_path }
    }

    /// The module that `name` means.
    pub fn find(&self, name: &[u8]) -> Option<usize> {
        if name.contains(&b'/') {
            return self.by_path.get(name).or_else(|| self.by_name.get(base(name))).copied();
        }
        self.by_name.get(name).copied()
    }
}

/// How each of `modules` came to be mapped in a process that runs `executable`,
/// where `preload` was asked for; `None` for all where the executable is not among
/// them.
pub fn classify(modules: &[Links<'_>], executable: Option<&[u8]>, preload: &[Vec<u8>]) -> Vec<Option<&'static str>> {
    let mut loaded = vec![None; modules.len()];
    let index = Index::new(modules);
    let Some(start) = executable.and_then(|path| index.by_path.get(path)).copied() else { return loaded };
    let mut open = vec![start];
    loaded[start] = Some("executable");
    if let Some(at) = modules[start].interpreter.and_then(|name| index.find(name)) {
        loaded[at].get_or_insert("interpreter");
        open.push(at);
    }
    for at in preload.iter().filter_map(|name| index.find(name)) {
        if loaded[at].is_none() {
            loaded[at] = Some("preload");
            open.push(at);
        }
    }
    while let Some(at) = open.pop() {
        for needed in modules[at].needed.iter().filter_map(|name| index.find(name)) {
            if loaded[needed].is_none() {
                loaded[needed] = Some("needed");
                open.push(needed);
            }
        }
    }
    loaded.into_iter().map(|how| Some(how.unwrap_or("dlopen"))).collect()
}

/// Names that one preload list may have.
const MAX_PRELOADS: usize = 256;
/// Bytes of `/etc/ld.so.preload`.
const MAX_PRELOAD_FILE: usize = 64 * 1024;

/// What `process` was asked to load first: LD_PRELOAD, of which nothing but this
/// one value leaves its environment, and `/etc/ld.so.preload`.
///
/// # Errors
///
/// When its environment cannot be read; the list has what the file says.
pub fn preload(process: &Process<'_>) -> (Vec<Vec<u8>>, Option<Failure>) {
    let mut environ = Vec::new();
    let failure = process.read("environ", &mut environ).err();
    let mut names = environ
        .split(|byte| *byte == 0)
        .find_map(|entry| entry.strip_prefix(b"LD_PRELOAD="))
        .map_or_else(Vec::new, list);
    if let Ok(file) = crate::packages::read_file(process, b"/etc/ld.so.preload", MAX_PRELOAD_FILE) {
        names.extend(list(&file));
    }
    names.truncate(MAX_PRELOADS);
    (names, failure)
}

/// Names with spaces or colons between them (ld.so(8)).
fn list(bytes: &[u8]) -> Vec<Vec<u8>> {
    let parts = bytes.split(|byte| byte.is_ascii_whitespace() || *byte == b':');
    parts.filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module<'a>(path: &'a str, soname: &'a str, needed: &[&'a str]) -> Links<'a> {
        Links {
            path: path.as_bytes(),
            soname: Some(soname.as_bytes()).filter(|name| !name.is_empty()),
            interpreter: path.ends_with("app").then_some(b"/lib64/ld-linux-x86-64.so.2"),
            needed: needed.iter().map(|name| name.as_bytes()).collect(),
        }
    }

    #[test]
    fn what_nobody_needs_was_loaded_later() {
        let modules = [
            module("/usr/bin/app", "", &["libssl.so.3", "libc.so.6"]),
            module("/usr/lib/ld-2.31.so", "ld-linux-x86-64.so.2", &[]),
            module("/usr/lib/libssl.so.3", "libssl.so.3", &["libcrypto.so.3"]),
            module("/usr/lib/libcrypto.so.3", "libcrypto.so.3", &["libc.so.6"]),
            module("/usr/lib/libc-2.31.so", "libc.so.6", &["ld-linux-x86-64.so.2"]),
            module("/opt/hook.so", "", &["libhook-dep.so"]),
            module("/opt/libhook-dep.so", "", &[]),
            module("/usr/lib/plugins/x.so", "", &["libonlyplugin.so.1"]),
            module("/usr/lib/libonlyplugin.so.1", "libonlyplugin.so.1", &[]),
        ];
        let told = classify(&modules, Some(b"/usr/bin/app"), &list(b"/opt/hook.so:libnone.so"));
        let words: Vec<&str> = told.into_iter().flatten().collect();
        assert_eq!(
            words,
            ["executable", "interpreter", "needed", "needed", "needed", "preload", "needed", "dlopen", "dlopen"]
        );
        assert_eq!(classify(&modules, None, &[]), [None; 9]);
    }

    #[test]
    fn preload_lists_have_either_separator() {
        assert_eq!(list(b"a.so b.so:c.so\n\n"), [b"a.so".to_vec(), b"b.so".to_vec(), b"c.so".to_vec()]);
    }
}
