//! Two threads over one list.

use std::thread::Builder;

/// Applies `work` to `items` and returns its results in their order: in one piece
/// below `worth` items, else in two halves at the same time, if the pod may have
/// one more thread. More would take CPU time from the target for little.
pub fn in_halves<T: Sync, R: Send>(items: &[T], worth: usize, work: impl Fn(&[T]) -> Vec<R> + Sync) -> Vec<R> {
    if items.len() < worth {
        return work(items);
    }
    let (first, second) = items.split_at(items.len() / 2);
    std::thread::scope(|scope| {
        let other = Builder::new().spawn_scoped(scope, || work(second));
        let mut results = work(first);
        results.extend(match other {
            // A panic in the other half is one here.
            Ok(other) => other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(_) => work(second),
        });
        results
    })
}
