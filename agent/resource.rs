//! Where it was seen, in OpenTelemetry's resource attributes.

use std::collections::BTreeMap;

use agent_model::Text;
use agent_system::parse::{kubelet_names, mounts};
use agent_system::{Run, own};

/// What is known of the place; what is not known is absent, never guessed.
///
/// Pod and container are read from the files that the kubelet mounts into the
/// target's container. <https://opentelemetry.io/docs/specs/semconv/resource/>
pub(crate) fn attributes(run: &Run) -> BTreeMap<&'static str, Text> {
    let mut all = BTreeMap::new();
    if run.is_live() {
        all.insert("host.name", Text::from(own::host_name().as_str()));
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
