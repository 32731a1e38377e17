//! Lines that come in small batches of overlapping times, some of them twice with another value.

use std::collections::VecDeque;

use weir_bench::tsbs::{BodyFacts, Generator};

/// Hosts go by so many stripes, each a batch of its own, one step of time behind the stripe before.
const STRIPES: usize = 10;
/// Steps in a batch.
const STEPS: usize = 10;
/// Every so many batches one comes again with other values.
const AGAIN_EVERY: usize = 16;
/// What `usage_user` is in a line that comes again.
const CORRECTED: u64 = 101;
const FIELD: &[u8] = b"usage_user=";

/// Makes the batches. Neighbours overlap in time, so that all together are one chain.
pub(super) struct Batches {
    generator: Generator,
    hosts: usize,
    /// The lines of steps that may still be asked for, by host, the first of them at step `first`.
    steps: VecDeque<Vec<Vec<u8>>>,
    first: usize,
    made: usize,
    /// Of all distinct rows so far, as they are in the end.
    pub(super) facts: BodyFacts,
}

impl Batches {
    pub(super) fn new(hosts: usize) -> Self {
        assert_eq!(hosts % STRIPES, 0, "hosts come in {STRIPES} stripes");
        let (steps, facts) = (VecDeque::new(), BodyFacts::default());
        Self { generator: Generator::new(hosts, 1), hosts, steps, first: 0, made: 0, facts }
    }

    /// The next batch.
    pub(super) fn next(&mut self, body: &mut Vec<u8>) {
        let (stripe, round) = (self.made % STRIPES, self.made / STRIPES);
        let begin = round * STEPS + stripe;
        self.keep(begin.saturating_sub(2 * STEPS), begin + STEPS);
        body.clear();
        for step in begin..begin + STEPS {
            for host in (stripe..self.hosts).step_by(STRIPES) {
                let line = &self.steps[step - self.first][host];
                self.facts.rows += 1;
                self.facts.usage_user_sum += value(line).1;
                body.extend_from_slice(line);
            }
        }
        if round > 0 && self.made.is_multiple_of(AGAIN_EVERY) {
            for step in begin - STEPS..begin {
                for host in (stripe..self.hosts).step_by(STRIPES) {
                    let line = &mut self.steps[step - self.first][host];
                    let (place, before) = value(line);
                    self.facts.usage_user_sum += CORRECTED - before;
                    line.splice(place, CORRECTED.to_string().into_bytes());
                    body.extend_from_slice(line);
                }
            }
        }
        self.made += 1;
    }

    /// Holds the lines of these steps.
    fn keep(&mut self, from: usize, to: usize) {
        while self.first < from {
            self.steps.pop_front();
            self.first += 1;
        }
        let mut body = Vec::new();
        while self.first + self.steps.len() < to {
            self.generator.body(self.hosts, &mut body);
            self.steps.push_back(body.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect());
        }
    }
}

/// Where `usage_user` is in a line, and what it is.
fn value(line: &[u8]) -> (std::ops::Range<usize>, u64) {
    let at =
        line.windows(FIELD.len()).position(|window| window == FIELD).expect("every line has the field") + FIELD.len();
    let digits = line[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let value = line[at..at + digits].iter().fold(0, |value, digit| value * 10 + u64::from(digit - b'0'));
    (at..at + digits, value)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn batches_hold_each_row_and_some_of_them_again() {
        let mut batches = Batches::new(20);
        let mut rows: HashMap<(String, String), u64> = HashMap::new();
        let (mut body, mut lines) = (Vec::new(), 0);
        for _ in 0..70 {
            batches.next(&mut body);
            for line in body.split_inclusive(|byte| *byte == b'\n') {
                let text = std::str::from_utf8(line).unwrap();
                let parts: Vec<&str> = text.split(' ').collect();
                rows.insert((parts[0].to_owned(), parts[2].to_owned()), value(line).1);
                lines += 1;
            }
        }
        let facts = BodyFacts { rows: rows.len() as u64, usage_user_sum: rows.values().sum() };
        assert_eq!(batches.facts, facts);
        assert_eq!(lines - rows.len(), 4 * 2 * STEPS);
    }
}
