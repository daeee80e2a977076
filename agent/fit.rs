//! Making an answer fit the limit of what may be written.

use agent_model::data::{LeftOut, json_bytes};
use agent_model::{Data, Gap};
use agent_session::Refusal;
use agent_system::Answer;

/// The envelope around data and gaps, in bytes, with room to spare.
const AROUND: u64 = 8 << 10;

/// What NDJSON adds to a row: schema and session.
const AROUND_ROW: u64 = 192;

/// Leaves out rows, then parts, then gaps of `answer`, whose data has `data_bytes` as JSON,
/// until it has no more than `most` bytes, with a gap in the place of each; returns how
/// many bytes it has then, and whether anything was left out.
///
/// # Errors
///
/// When nothing more can be left out: how many bytes it has.
pub(crate) fn fit(answer: &mut Answer, most: u64, data_bytes: u64) -> Result<(u64, bool), u64> {
    let mut known = Some(data_bytes);
    let mut is_less = false;
    loop {
        let data_bytes = known.take().unwrap_or_else(|| json_bytes(&*answer.data as &dyn Data).unwrap_or(0));
        let bytes = bytes_around(answer) + data_bytes;
        if bytes <= most {
            return Ok((bytes, is_less));
        }
        // Gaps may take up to half of the room.
        let gaps_bytes: u64 = answer.gaps.iter().filter_map(|gap| json_bytes(gap)).sum();
        let is_cut = if gaps_bytes > most / 2 && answer.gaps.len() > 2 {
            cut_gaps(answer, most / 2)
        } else {
            let room = most.saturating_sub(AROUND + options_bytes(answer) + gaps_bytes);
            cut_rows(answer, room) || leave_out(answer, bytes - most)
        };
        if !is_cut {
            return Err(bytes);
        }
        is_less = true;
    }
}

/// All but the data.
fn bytes_around(answer: &Answer) -> u64 {
    let gaps: u64 = answer.gaps.iter().filter_map(|gap| json_bytes(gap)).sum();
    let rows = answer.data.row_count().unwrap_or(0) as u64;
    AROUND + options_bytes(answer) + gaps + rows * AROUND_ROW
}

fn options_bytes(answer: &Answer) -> u64 {
    json_bytes(&*answer.options).unwrap_or(0)
}

fn limit_gap(at: &str, words: String) -> Gap {
    let refusal = Refusal::Output;
    Gap::new(at, refusal.reason()).detail(words).remedy(refusal.remedy())
}

/// Keeps the rows that fit into `room` bytes, beside the rest of the data.
fn cut_rows(answer: &mut Answer, room: u64) -> bool {
    let Some(count) = answer.data.row_count().filter(|count| *count > 0) else { return false };
    let sizes: Vec<u64> = (0..count).map(|at| answer.data.row(at).and_then(json_bytes).unwrap_or(0) + 1).collect();
    let rest = json_bytes(&*answer.data as &dyn Data).unwrap_or(0).saturating_sub(sizes.iter().sum());
    let mut left = room.saturating_sub(rest);
    let kept = sizes
        .iter()
        .take_while(|size| {
            let fits = left >= **size + AROUND_ROW;
            left = left.saturating_sub(**size + AROUND_ROW);
            fits
        })
        .count();
    // At least one goes each time.
    let kept = kept.min(count - 1);
    if !answer.data.cut(kept) {
        return false;
    }
    answer.gaps.retain(|gap| row_of(&gap.at).is_none_or(|row| row < kept));
    let words = format!("{} of {count} rows were left out: more may not be written", count - kept);
    // Once, however often it takes; what the collector itself left out stays told.
    let gap = limit_gap("/rows", words);
    answer.gaps.retain(|other| other.at != gap.at || other.reason != gap.reason || other.remedy != gap.remedy);
    answer.gaps.push(gap);
    true
}

/// The row that a JSON Pointer leads to.
fn row_of(at: &str) -> Option<usize> {
    at.strip_prefix("/rows/")?.split('/').next()?.parse().ok()
}

fn leave_out(answer: &mut Answer, excess: u64) -> bool {
    let Some(LeftOut { at, rows }) = answer.data.leave_out(excess) else { return false };
    let below = format!("{at}/");
    let kept = rows.map_or(0, |(kept, _)| kept);
    let is_there = |gap: &Gap| {
        gap.at.strip_prefix(&below).is_none_or(|rest| row_of(&format!("/rows/{rest}")).is_some_and(|row| row < kept))
    };
    answer.gaps.retain(|gap| gap.at != at && is_there(gap));
    let words = match rows {
        None => "it was left out: more may not be written".to_owned(),
        Some((kept, all)) => format!("{} of {all} rows were left out: more may not be written", all - kept),
    };
    answer.gaps.push(limit_gap(&at, words));
    true
}

fn cut_gaps(answer: &mut Answer, room: u64) -> bool {
    let before = answer.gaps.len();
    let mut left = room / 2;
    let kept = answer.gaps.iter().take_while(|gap| {
        let size = json_bytes(gap).unwrap_or(0) + 1;
        let fits = left >= size;
        left = left.saturating_sub(size);
        fits
    });
    let kept = kept.count().min(before - 2);
    answer.gaps.truncate(kept);
    let words = format!("{} more gaps were left out: more may not be written", before - kept);
    answer.gaps.push(limit_gap("", words));
    true
}

#[cfg(test)]
mod tests {
    use agent_model::{Listing, Reason};

    use super::*;

    fn answer(rows: usize, gaps: usize) -> Answer {
        let rows: Vec<String> = (0..rows).map(|at| format!("{at:0100}")).collect();
        let gaps = (0..gaps).map(|at| Gap::new(format!("/rows/{at}/x"), Reason::Exited)).collect();
        Answer { options: Box::new(()), data: Box::new(Listing { rows, summary: 7 }), gaps }
    }

    fn fit_all(answer: &mut Answer, most: u64) -> Result<(u64, bool), u64> {
        let bytes = json_bytes(&*answer.data as &dyn Data).expect("serializable");
        fit(answer, most, bytes)
    }

    /// Whoever counts the gaps does not notice.
    #[test]
    fn a_gap_in_the_place_of_another_is_told_as_well() {
        let mut large = answer(1_000, 0);
        large.gaps.push(Gap::new("/rows/999/x", Reason::Exited));
        assert!(matches!(fit_all(&mut large, 64 << 10), Ok((_, true))));
        assert_eq!(large.gaps.len(), 1);
    }

    #[test]
    fn what_fits_is_left_as_it_is() {
        let mut small = answer(10, 3);
        assert!(matches!(fit_all(&mut small, 64 << 10), Ok((_, false))));
        assert_eq!((small.data.row_count(), small.gaps.len()), (Some(10), 3));
    }

    #[test]
    fn rows_go_from_the_end_with_their_gaps_and_a_gap_says_so() {
        let mut large = answer(1_000, 1_000);
        let (bytes, _) = fit_all(&mut large, 64 << 10).expect("it fits");
        assert!(bytes <= 64 << 10, "{bytes}");
        let kept = large.data.row_count().expect("a list");
        assert!((50..1_000).contains(&kept), "{kept}");
        let last = large.gaps.last().expect("a gap");
        assert_eq!((last.reason, last.at.as_str()), (Reason::LimitReached, "/rows"));
        assert!(large.gaps.iter().all(|gap| row_of(&gap.at).is_none_or(|row| row < kept)));
    }

    #[test]
    fn what_a_collector_left_out_itself_stays_told() {
        let mut large = answer(1_000, 0);
        large.gaps.push(Gap::new("/rows", Reason::LimitReached).detail("20 flows are not listed"));
        fit_all(&mut large, 64 << 10).expect("it fits");
        let details: Vec<_> = large.gaps.iter().filter_map(|gap| gap.detail.as_deref()).collect();
        assert_eq!(details.len(), 2, "{details:?}");
        assert_eq!(details[0], "20 flows are not listed");
    }

    #[test]
    fn more_gaps_than_may_be_written_become_one() {
        let mut large = answer(1, 10_000);
        fit_all(&mut large, 64 << 10).expect("it fits");
        assert!(large.gaps.len() < 2_000, "{}", large.gaps.len());
        assert!(agent_model::data::was_refused(&large.gaps));
    }
}
