//! DNS over a capture: questions and answers put together.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;

use agent_model::Text;

use super::data;
use super::dns::{Message, Question, kind_name, rcode_name};
use super::flows::Place;
use super::tcp::Times;

/// The most questions, searches and clients that are told apart.
const MOST_NAMES: usize = 10_000;
/// The most queries that wait for an answer.
const MOST_PENDING: usize = 4096;
/// The most denials of a client that are remembered, to see a search in them.
const MOST_DENIALS: usize = 8;
/// A resolver asks for the next name within this time.
const SEARCH_NS: u64 = 5_000_000_000;
/// The answer code that says: there is no such name.
const NXDOMAIN: u8 = 3;

#[derive(Debug, Default)]
struct Asked {
    queries: u64,
    repeated: u64,
    answered: u64,
    answers: BTreeMap<&'static str, u64>,
    truncated: u64,
    latency: Times,
}

type Key = (Question, IpAddr);
type Exchange = (Place, Place, u16);
/// The name that was meant, and who asked.
type Searched = (Vec<u8>, IpAddr);

/// All that was asked and answered.
#[derive(Debug, Default)]
pub(crate) struct Names {
    asked: BTreeMap<Key, Asked>,
    pending: HashMap<Exchange, (Question, u64)>,
    order: VecDeque<Exchange>,
    denials: HashMap<IpAddr, VecDeque<(Question, u64)>>,
    searches: BTreeMap<Searched, (BTreeSet<Vec<u8>>, u64)>,
    /// Questions that are not told, since there were too many.
    pub(crate) left_out: u64,
}

impl Names {
    /// Takes a message from `source` to `destination`. The latency, if it answers a
    /// query that was seen, in nanoseconds.
    pub(crate) fn message(&mut self, message: Message, source: Place, destination: Place, now_ns: u64) -> Option<u64> {
        // Only queries: notifications and updates are other protocols in the same coat.
        if message.opcode != 0 {
            return None;
        }
        if message.is_response {
            return self.answer(&message, (destination, source, message.id), now_ns);
        }
        if let Some(question) = message.question {
            self.query(question, (source, destination, message.id), now_ns);
        }
        None
    }

    fn query(&mut self, question: Question, exchange: Exchange, now_ns: u64) {
        let (client, server, _) = exchange;
        let is_repeated = self.pending.get(&exchange).is_some_and(|(pending, _)| *pending == question);
        let Some(asked) = self.asked((question.clone(), server.0)) else { return };
        asked.queries += 1;
        asked.repeated += u64::from(is_repeated);
        if is_repeated {
            return;
        }
        self.search(&question, client.0, now_ns);
        if self.pending.insert(exchange, (question, now_ns)).is_none() {
            self.order.push_back(exchange);
        }
        while self.order.len() > MOST_PENDING {
            if let Some(oldest) = self.order.pop_front() {
                self.pending.remove(&oldest);
            }
        }
    }

    fn answer(&mut self, message: &Message, exchange: Exchange, now_ns: u64) -> Option<u64> {
        let (question, since) = self.pending.remove(&exchange)?;
        if let Some(at) = self.order.iter().position(|known| *known == exchange) {
            self.order.remove(at);
        }
        let latency = now_ns.saturating_sub(since);
        let (client, server, _) = exchange;
        if message.rcode == NXDOMAIN && (self.denials.len() < MOST_NAMES || self.denials.contains_key(&client.0)) {
            let denials = self.denials.entry(client.0).or_default();
            if denials.len() >= MOST_DENIALS {
                denials.pop_front();
            }
            denials.push_back((question.clone(), now_ns));
        }
        if let Some(asked) = self.asked((question, server.0)) {
            asked.answered += 1;
            *asked.answers.entry(rcode_name(message.rcode)).or_default() += 1;
            asked.truncated += u64::from(message.is_truncated);
            asked.latency.add(latency);
        }
        Some(latency)
    }

    fn asked(&mut self, key: Key) -> Option<&mut Asked> {
        if self.asked.len() >= MOST_NAMES && !self.asked.contains_key(&key) {
            self.left_out += 1;
            return None;
        }
        Some(self.asked.entry(key).or_default())
    }

    /// Sees in `question` the next step of a search that an earlier one, now denied,
    /// was a step of.
    fn search(&mut self, question: &Question, client: IpAddr, now_ns: u64) {
        let Some(denials) = self.denials.get_mut(&client) else { return };
        let searches = &mut self.searches;
        denials.retain(|(denied, when)| {
            let is_recent = now_ns.saturating_sub(*when) <= SEARCH_NS;
            if !is_recent || denied.kind != question.kind {
                return is_recent;
            }
            let Some((name, domain)) = step(&denied.name, &question.name) else { return true };
            if searches.len() < MOST_NAMES || searches.contains_key(&(name.clone(), client)) {
                let (domains, wasted) = searches.entry((name, client)).or_default();
                domains.insert(domain);
                *wasted += 1;
            }
            false
        });
    }

    /// Everything, sorted.
    pub(crate) fn finish(self) -> data::Dns {
        let questions = self.asked.into_iter().map(|((question, server), asked)| data::Question {
            name: Text::from_bytes(&question.name),
            kind: kind_name(question.kind),
            server_address: server.to_string(),
            queries: asked.queries,
            repeated: asked.repeated,
            unanswered: asked.queries.saturating_sub(asked.repeated).saturating_sub(asked.answered),
            answers: asked.answers,
            truncated: asked.truncated,
            latency: super::summary::times(&asked.latency),
        });
        let searches = self.searches.into_iter().map(|((name, client), (domains, wasted_queries))| data::Search {
            name: Text::from_bytes(&name),
            client_address: client.to_string(),
            domains: domains.iter().map(|domain| Text::from_bytes(domain)).collect(),
            wasted_queries,
        });
        data::Dns { questions: questions.collect(), searches: searches.collect() }
    }
}

/// The name that was meant, and the domain in which it was looked for, if `next` is
/// the step of a search that follows the denial of `denied`: the same name in a
/// wider domain, or as it is.
fn step(denied: &[u8], next: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (denied, next) = (labels(denied), labels(next));
    let same = denied.iter().zip(&next).take_while(|(a, b)| a == b).count();
    let (domain, wider) = (denied.get(same..)?, next.get(same..)?);
    (same > 0 && domain.len() > wider.len() && domain.ends_with(wider))
        .then(|| (next[..same].join(&b'.'), domain.join(&b'.')))
}

/// The labels of a name, escapes left as they are.
fn labels(name: &[u8]) -> Vec<&[u8]> {
    let mut labels = Vec::new();
    let (mut start, mut at) = (0, 0);
    while at < name.len() {
        match name[at] {
            b'\\' => at += 1,
            b'.' => {
                labels.push(&name[start..at]);
                start = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    labels.push(&name[start..]);
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(id: u16, name: &str, rcode: Option<u8>) -> Message {
        Message {
            id,
            is_response: rcode.is_some(),
            opcode: 0,
            rcode: rcode.unwrap_or(0),
            is_truncated: false,
            answers: 0,
            question: Some(Question { name: name.as_bytes().to_vec(), kind: 1 }),
        }
    }

    const CLIENT: Place = (IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)), 40000);
    const SERVER: Place = (IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2)), 53);

    #[test]
    fn sees_a_search_through_the_domains_of_a_cluster() {
        let mut names = Names::default();
        let asked = ["db.example.ns.svc.cluster.local", "db.example.svc.cluster.local", "db.example.cluster.local"];
        for (id, name) in (0..).zip(asked) {
            names.message(message(id, name, None), CLIENT, SERVER, 1000);
            assert_eq!(names.message(message(id, name, Some(3)), SERVER, CLIENT, 3000), Some(2000));
        }
        names.message(message(9, "db.example", None), CLIENT, SERVER, 4000);
        names.message(message(9, "db.example", None), CLIENT, SERVER, 5000);
        let dns = names.finish();
        let [search] = &dns.searches[..] else { panic!("one search, not {:?}", dns.searches) };
        assert_eq!((search.name.as_str(), search.wasted_queries), ("db.example", 3));
        assert_eq!(search.domains.len(), 3);
        let last = dns.questions.iter().find(|question| question.name.as_str() == "db.example").expect("asked");
        assert_eq!((last.queries, last.repeated, last.unanswered), (2, 1, 1));
    }

    #[test]
    fn names_of_one_domain_are_no_search() {
        assert_eq!(step(b"www.example.com", b"mail.example.com"), None);
        assert_eq!(step(b"www.example.com", b"www.example.org"), None);
        assert_eq!(step(b"a.b.c", b"a.c"), Some((b"a".to_vec(), b"b.c".to_vec())));
        assert_eq!(step(b"", b""), None);
    }
}
