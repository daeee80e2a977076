//! Where it was seen, in OpenTelemetry's resource attributes.

use std::collections::BTreeMap;

use agent_model::Text;
use agent_system::parse::{kubelet_names, mounts};
use agent_system::{Run, own};

/// The namespace of the pod.
pub(crate) const NAMESPACE: &str = "k8s.namespace.name";

/// What the pod is one of: the first that is known names it.
pub(crate) const WORKLOADS: [&str; 6] =
    ["k8s.deployment.name", "k8s.statefulset.name", "k8s.daemonset.name", "k8s.cronjob.name", "k8s.job.name", POD];

/// The pod.
const POD: &str = "k8s.pod.name";

/// What nothing in a pod tells, and who starts the agent may: of OTEL_RESOURCE_ATTRIBUTES (`kubectl debug --env`) namespace and
/// workload. <https://opentelemetry.io/docs/specs/otel/resource/sdk/>
///
/// Else what the downward API is commonly given the names of: POD_NAMESPACE and POD_NAME.
pub(crate) fn told() -> BTreeMap<&'static str, String> {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let mut told = parse(&format!("{NAMESPACE}={},{POD}={}", variable("POD_NAMESPACE"), variable("POD_NAME")));
    told.extend(parse(&variable("OTEL_RESOURCE_ATTRIBUTES")));
    told
}

/// What the pod `name` is one of, as far as its name says: without the suffixes of a Deployment's pods (the hash of a
/// ReplicaSet's template and five characters) or a DaemonSet's (five characters), which are of an alphabet without vowels.
/// <https://github.com/kubernetes/apimachinery/blob/master/pkg/util/rand/rand.go> (SafeEncodeString)
pub(crate) fn workload_of(name: &str) -> &str {
    let is_random = |part: &str| part.bytes().all(|byte| b"bcdfghjklmnpqrstvwxz2456789".contains(&byte));
    let without = |name, lengths: std::ops::RangeInclusive<usize>| match str::rsplit_once(name, '-') {
        Some((before, part)) if lengths.contains(&part.len()) && is_random(part) && !before.is_empty() => Some(before),
        _ => None,
    };
    without(name, 5..=5).map_or(name, |owner| without(owner, 6..=10).unwrap_or(owner))
}

fn parse(text: &str) -> BTreeMap<&'static str, String> {
    let known = |key: &str| [NAMESPACE].into_iter().chain(WORKLOADS).find(|known| *known == key.trim());
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    let named = pairs.filter_map(|(key, value)| Some((known(key)?, value.trim().to_owned())));
    // A name of Kubernetes (RFC 1123), which has nothing to escape.
    let is_name = |name: &str| {
        (1..=253).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
    };
    named.filter(|(_, value)| is_name(value)).collect()
}

/// What is known of the place; what is not known is absent, never guessed.
///
/// Pod and container are read from the files that the kubelet mounts into the
/// target's container. <https://opentelemetry.io/docs/specs/semconv/resource/>
pub(crate) fn attributes(run: &Run) -> BTreeMap<&'static str, Text> {
    let mut all = BTreeMap::new();
    if run.is_live() {
        all.insert("host.name", Text::from(own::host_name().as_str()));
        all.extend(told().into_iter().map(|(key, value)| (key, Text::from(value.as_str()))));
    }
    let Some(target) = run.target() else { return all };
    let mut buffer = Vec::new();
    let read = run.process(target.pid).and_then(|process| process.read("mountinfo", &mut buffer));
    if read.is_ok() {
        let (pod, container) = kubelet_names(&mounts(&buffer));
        all.extend(pod.map(|uid| ("k8s.pod.uid", Text::from(uid.as_str()))));
        all.extend(container.map(|name| ("k8s.container.name", Text::from(name.as_str()))));
    }
    all.extend(target.container_id.clone().map(|id| ("container.id", id)));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_the_workload_is_taken_and_nothing_else() {
        let told =
            parse("k8s.namespace.name=shop, k8s.deployment.name=web,service.name=x,k8s.pod.name=../x,k8s.job.name=");
        let found: Vec<(&str, &str)> = told.iter().map(|(key, value)| (*key, value.as_str())).collect();
        assert_eq!(found, [("k8s.deployment.name", "web"), ("k8s.namespace.name", "shop")]);
        assert!(parse("").is_empty());
    }

    #[test]
    fn a_pod_is_one_of_what_its_name_begins_with() {
        for (pod, workload) in [
            ("web-7d4b9c6f5d-x2v8k", "web"),
            ("shop-api-5c8d6b7f9-zz4lw", "shop-api"),
            ("node-exporter-9xk2p", "node-exporter"),
            // The ordinal of a StatefulSet tells its pods apart for good.
            ("postgres-0", "postgres-0"),
            ("my-nginx", "my-nginx"),
            ("web-7d4b9", "web"),
            ("vm", "vm"),
            ("-x2v8k", "-x2v8k"),
            ("", ""),
        ] {
            assert_eq!(workload_of(pod), workload);
        }
    }
}
