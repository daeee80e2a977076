//! What is told of a look whose memory is not enough: made before it, since there is none to make it with then.

use agent_model::{AgentInfo, Cost, Data, Envelope, Observed};
use agent_output::Printed;
use agent_session::Refusal;
use agent_session::redact::Redacted;
use agent_system::allocator::{self, Last};
use agent_system::clock;

use super::{Known, Look, classes_of, reached};
use crate::version;

/// As [`Look::get_ready_with`].
pub(super) type Render<'a> = Box<dyn Fn(&Printed<'_>) -> Option<(i32, Vec<u8>)> + 'a>;

impl<'a> Look<'a> {
    /// `render` makes the bytes of an envelope without data, and says to which file they go: they are kept ready for where
    /// there is no memory left to make them with.
    pub(crate) fn get_ready_with(&mut self, render: impl Fn(&Printed<'_>) -> Option<(i32, Vec<u8>)> + 'a) {
        self.render = Some(Box::new(render));
    }

    /// Makes ready what is told of the next look if its memory is not enough. Nothing is touched for it: what is told
    /// besides is what is known by now.
    pub(super) fn get_ready(&mut self) {
        let Some(render) = &self.render else { return };
        let Ok(options) = (self.command.options)(self.matches) else { return };
        let command = self.command;
        let classes = &**self.classes.get_or_insert_with(|| classes_of(command));
        let session = self.run.session();
        let redactor = session.redactor().another();
        let place = |field| classes.field(Some(classes.root()), field);
        let Ok(options) = serde_json::to_value(Redacted::new(&*options, &redactor, classes, place("options"))) else {
            return;
        };
        let data = Known { data: Redacted::new(&() as &dyn Data, &redactor, classes, place("data")), json: None };
        let Ok(digest) = agent_model::digest(&data) else { return };
        let start = clock::rfc3339(self.since.wall_us);
        let envelope = Envelope {
            schema: self.command.schema_name(),
            session: session.info().clone(),
            sequence: self.sequence + 1,
            agent: AgentInfo { version: version::VERSION, build_id: None },
            resource: std::collections::BTreeMap::new(),
            target: self.run.target().map(|target| redactor.target(target)),
            observed: Observed { start: start.clone(), end: start },
            cost: Cost::default(),
            options: &options as &dyn erased_serde::Serialize,
            digest,
            data: &data as &dyn agent_model::Shown,
            gaps: vec![reached(Refusal::Memory)],
            redaction: redactor.take_report(),
        };
        if let Some((file, bytes)) = render(&envelope) {
            allocator::last_words(Last::Answer, file, vec![bytes]);
        }
    }
}
