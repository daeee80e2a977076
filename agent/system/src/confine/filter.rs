//! From the lists of [`super::rules`] to filters of the kernel (seccomp(2)).

use std::collections::BTreeMap;

use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use super::rules::{AS_IF_MISSING, BASE, Condition, Is, Need, Rule};

/// Why there is no filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoFilter(pub(super) &'static str);

impl From<seccompiler::BackendError> for NoFilter {
    fn from(_: seccompiler::BackendError) -> Self {
        Self("no filter can be made for this processor")
    }
}

/// The programs for a process that has `needs` and writes to `outputs`, in the order in
/// which they are to be installed.
///
/// Where several are installed the kernel takes the strictest answer. Whatever is in no list
/// is a trap: it is not done, it is noted ([`super::refused`]), and it returns EPERM.
pub(super) fn programs(needs: &[Need], outputs: &[i32]) -> Result<Vec<BpfProgram>, NoFilter> {
    let mut all = Vec::new();
    for (rule, errno) in AS_IF_MISSING {
        let rules = chains([rule], outputs)?;
        all.push(program(rules, SeccompAction::Allow, SeccompAction::Errno(errno.unsigned_abs()))?);
    }
    let missing = AS_IF_MISSING.iter().map(|(rule, _)| rule);
    let rules = BASE.iter().chain(needs.iter().flat_map(|need| need.rules())).chain(missing);
    all.push(program(chains(rules, outputs)?, SeccompAction::Trap, SeccompAction::Allow)?);
    Ok(all)
}

type Chains = BTreeMap<i64, Vec<SeccompRule>>;

fn program(rules: Chains, otherwise: SeccompAction, matched: SeccompAction) -> Result<BpfProgram, NoFilter> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    Ok(SeccompFilter::new(rules, otherwise, matched, arch)?.try_into()?)
}

/// The conditions by system call: any one of them is enough, and none means always.
fn chains<'a>(rules: impl IntoIterator<Item = &'a Rule>, outputs: &[i32]) -> Result<Chains, NoFilter> {
    let mut chains: BTreeMap<i64, Option<Vec<SeccompRule>>> = BTreeMap::new();
    for rule in rules {
        let chain = chains.entry(rule.call).or_insert_with(|| Some(Vec::new()));
        if rule.when.is_empty() {
            *chain = None;
        }
        let Some(chain) = chain else { continue };
        // A rule that names our outputs stands once for each of them.
        let of_output = rule.when.iter().any(|condition| condition.1 == Is::OurOutput);
        let stands_for = if of_output { outputs } else { &[-1] };
        for output in stands_for {
            chain.push(SeccompRule::new(conditions(rule, *output, outputs)?)?);
        }
    }
    Ok(chains.into_iter().map(|(call, chain)| (call, chain.unwrap_or_default())).collect())
}

/// The conditions of `rule`, where it stands for `output`.
fn conditions(rule: &Rule, output: i32, outputs: &[i32]) -> Result<Vec<SeccompCondition>, NoFilter> {
    let mut conditions = Vec::new();
    for (argument, is, words) in rule.when {
        if *is != Is::NotOurOutput {
            conditions.push(compiled(&(*argument, *is, words), output)?);
            continue;
        }
        for output in outputs {
            conditions.push(compiled(&(*argument, Is::Not(number(*output)), words), -1)?);
        }
    }
    Ok(conditions)
}

/// A descriptor as the filter compares it.
fn number(descriptor: i32) -> u64 {
    u64::from(descriptor.unsigned_abs())
}

fn compiled((argument, is, _): &Condition, output: i32) -> Result<SeccompCondition, NoFilter> {
    use SeccompCmpArgLen::{Dword, Qword};
    let (width, operator, value) = match *is {
        Is::Equal(value) => (Dword, SeccompCmpOp::Eq, value),
        Is::Not(value) => (Dword, SeccompCmpOp::Ne, value),
        Is::NoneOf(bits) => (Dword, SeccompCmpOp::MaskedEq(bits), 0),
        Is::Zero => (Qword, SeccompCmpOp::Eq, 0),
        Is::NotZero => (Qword, SeccompCmpOp::Ne, 0),
        Is::Ourselves => (Dword, SeccompCmpOp::Eq, u64::from(std::process::id())),
        Is::OurOutput => (Dword, SeccompCmpOp::Eq, number(output)),
        Is::NotOurOutput => return Err(NoFilter("a condition that stands for several")),
    };
    Ok(SeccompCondition::new(*argument, width, operator, value)?)
}

/// One line a rule: the system call, and its conditions in words. Sorted.
pub(super) fn described(rules: &[Rule]) -> Vec<String> {
    let mut lines: Vec<String> = rules
        .iter()
        .map(|rule| {
            let words: Vec<&str> = rule.when.iter().map(|condition| condition.2).collect();
            let name = call_name(rule.call);
            if words.is_empty() { name } else { format!("{name} ({})", words.join(", ")) }
        })
        .collect();
    lines.sort_unstable();
    lines
}

/// The name of a system call.
pub(super) fn call_name(call: libc::c_long) -> String {
    let name = usize::try_from(call).ok().and_then(syscalls::Sysno::new).map(|call| call.name());
    name.map_or_else(|| call.to_string(), str::to_owned)
}
