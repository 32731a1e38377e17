//! The cpu-only workload of the Time Series Benchmark Suite as line protocol, deterministic from a seed.
//!
//! One measurement, ten tags, ten integer fields that each walk at random between 0 and 100, one line per host every ten
//! seconds, hosts in order within a step: about 345 bytes a line. No body is used twice, so nothing compresses better
//! than it would in use. Making a line costs about 50 ns: fixed-size copies of prepared pieces, one table lookup per
//! value. It is not the suite's own generator: the shape is the same, the values are not.

const FIELDS: [&str; 10] = [
    "usage_user",
    "usage_system",
    "usage_idle",
    "usage_nice",
    "usage_iowait",
    "usage_irq",
    "usage_softirq",
    "usage_steal",
    "usage_guest",
    "usage_guest_nice",
];
const REGIONS: [&str; 9] = [
    "us-east-1",
    "us-west-1",
    "us-west-2",
    "eu-west-1",
    "eu-central-1",
    "ap-southeast-1",
    "ap-southeast-2",
    "ap-northeast-1",
    "sa-east-1",
];
const SYSTEMS: [&str; 3] = ["Ubuntu16.10", "Ubuntu16.04LTS", "Ubuntu15.10"];
const ARCHITECTURES: [&str; 2] = ["x64", "x86"];
const TEAMS: [&str; 4] = ["SF", "NYC", "LON", "CHI"];
const ENVIRONMENTS: [&str; 3] = ["production", "staging", "test"];

/// 2016-01-01T00:00:00Z, where the suite starts.
pub const START_SECONDS: u64 = 1_451_606_400;
/// Seconds between two lines of one host.
pub const STEP_SECONDS: u64 = 10;
/// Values (fields) in a line.
pub const VALUES_PER_LINE: u64 = FIELDS.len() as u64;

/// The longest piece copied at once; also the slack that a body needs behind its end.
const PIECE_BYTES: usize = 32;
/// Walks are kept in 1/256 of a percent.
const SCALE: i32 = 256;

/// A piece of text of at most [`PIECE_BYTES`], copied whole so that the copy has a fixed size.
#[derive(Clone, Copy)]
struct Piece {
    bytes: [u8; PIECE_BYTES],
    len: usize,
}

impl Piece {
    fn new(text: &str) -> Self {
        let mut bytes = [0; PIECE_BYTES];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Self { bytes, len: text.len() }
    }
}

struct Host {
    /// Measurement, tags, a space.
    prefix: Vec<u8>,
    walks: [i32; FIELDS.len()],
}

/// What went into one body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BodyFacts {
    /// Lines, each a distinct row.
    pub rows: u64,
    /// Sum of `usage_user` over them.
    pub usage_user_sum: u64,
}

/// Makes the lines in order of time, then host.
pub struct Generator {
    hosts: Vec<Host>,
    host_next: usize,
    seconds: u64,
    names: [Piece; FIELDS.len()],
    numbers: Vec<Piece>,
    steps: [i32; 256],
    random: u64,
}

impl Generator {
    /// A workload of `host_count` hosts; the same seed gives the same bytes.
    pub fn new(host_count: usize, seed: u64) -> Self {
        Self::starting_at(host_count, seed, START_SECONDS)
    }

    /// As [`Generator::new`], the first step at `seconds` since 1970.
    pub fn starting_at(host_count: usize, seed: u64, seconds: u64) -> Self {
        let mut random = seed ^ 0x9e37_79b9_7f4a_7c15;
        let mut steps = [0; 256];
        for pair in steps.chunks_exact_mut(2) {
            // The sum of twelve uniform numbers less six is as good as normal here; pairs of both signs have mean 0.
            let twelve: i32 = (0..12).map(|_| (next(&mut random) % SCALE as u64) as i32).sum();
            pair[0] = twelve - 6 * SCALE;
            pair[1] = -pair[0];
        }
        let hosts = (0..host_count).map(|index| host(index, &mut random)).collect();
        let names = std::array::from_fn(|i| Piece::new(&format!("{}{}=", if i == 0 { "" } else { "," }, FIELDS[i])));
        let numbers = (0..=100).map(|value| Piece::new(&format!("{value}i"))).collect();
        Self { hosts, host_next: 0, seconds, names, numbers, steps, random }
    }

    /// Fills `out` with the next `lines` lines.
    pub fn body(&mut self, lines: usize, out: &mut Vec<u8>) -> BodyFacts {
        let line_bytes_max = self.hosts.iter().map(|host| host.prefix.len()).max().unwrap_or(0) + 10 * 24 + 24;
        out.resize(lines * line_bytes_max + PIECE_BYTES, 0);
        let mut facts = BodyFacts { rows: lines as u64, usage_user_sum: 0 };
        let mut at = 0;
        let mut time = Piece::new(&format!(" {}000000000\n", self.seconds));
        for _ in 0..lines {
            if self.host_next == self.hosts.len() {
                self.host_next = 0;
                self.seconds += STEP_SECONDS;
                time = Piece::new(&format!(" {}000000000\n", self.seconds));
            }
            let host = &mut self.hosts[self.host_next];
            self.host_next += 1;
            out[at..at + host.prefix.len()].copy_from_slice(&host.prefix);
            at += host.prefix.len();
            let mut bits = next(&mut self.random);
            for (index, walk) in host.walks.iter_mut().enumerate() {
                if index == 5 {
                    bits = next(&mut self.random);
                }
                *walk = (*walk + self.steps[(bits & 0xff) as usize]).clamp(0, 100 * SCALE);
                bits >>= 8;
                let value = *walk / SCALE;
                if index == 0 {
                    facts.usage_user_sum += value as u64;
                }
                at = put(out, at, &self.names[index]);
                at = put(out, at, &self.numbers[value as usize]);
            }
            at = put(out, at, &time);
        }
        out.truncate(at);
        facts
    }
}

#[inline]
fn put(out: &mut [u8], at: usize, piece: &Piece) -> usize {
    out[at..at + PIECE_BYTES].copy_from_slice(&piece.bytes);
    at + piece.len
}

fn host(index: usize, random: &mut u64) -> Host {
    let mut pick = |count: usize| (next(random) % count as u64) as usize;
    let region = REGIONS[pick(REGIONS.len())];
    let prefix = format!(
        "cpu,hostname=host_{index},region={region},datacenter={region}{},rack={},os={},arch={},team={},service={},\
         service_version={},service_environment={} ",
        ["a", "b", "c"][pick(3)],
        pick(100),
        SYSTEMS[pick(SYSTEMS.len())],
        ARCHITECTURES[pick(ARCHITECTURES.len())],
        TEAMS[pick(TEAMS.len())],
        pick(20),
        pick(2),
        ENVIRONMENTS[pick(ENVIRONMENTS.len())],
    );
    Host { prefix: prefix.into_bytes(), walks: std::array::from_fn(|_| (next(random) % (100 * SCALE as u64)) as i32) }
}

/// Splitmix64: two multiplications a number, and good enough for a workload.
#[inline]
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bodies: &[usize]) -> (String, BodyFacts) {
        let mut generator = Generator::new(3, 7);
        let mut all = String::new();
        let mut facts = BodyFacts::default();
        let mut body = Vec::new();
        for lines in bodies {
            let more = generator.body(*lines, &mut body);
            facts.rows += more.rows;
            facts.usage_user_sum += more.usage_user_sum;
            all.push_str(std::str::from_utf8(&body).unwrap());
        }
        (all, facts)
    }

    #[test]
    fn same_seed_gives_same_lines_however_they_are_cut() {
        assert_eq!(text(&[10]), text(&[4, 1, 5]));
    }

    #[test]
    fn lines_have_the_shape_of_the_suite() {
        let (all, facts) = text(&[3_000]);
        assert_eq!(facts.rows, 3_000);
        let mut sum = 0;
        for (index, line) in all.lines().enumerate() {
            let parts: Vec<&str> = line.split(' ').collect();
            assert_eq!(parts.len(), 3, "{line}");
            assert!(parts[0].starts_with(&format!("cpu,hostname=host_{},region=", index % 3)), "{line}");
            assert_eq!(parts[0].matches('=').count(), 10);
            let values: Vec<u64> = parts[1]
                .split(',')
                .zip(FIELDS)
                .map(|(pair, name)| {
                    let value = pair.strip_prefix(name).unwrap().strip_prefix('=').unwrap();
                    value.strip_suffix('i').unwrap().parse().unwrap()
                })
                .collect();
            assert_eq!(values.len(), 10);
            assert!(values.iter().all(|value| *value <= 100));
            sum += values[0];
            let seconds = START_SECONDS + index as u64 / 3 * STEP_SECONDS;
            assert_eq!(parts[2], format!("{seconds}000000000"));
        }
        assert_eq!(sum, facts.usage_user_sum);
        let bytes_per_line = all.len() / 3_000;
        assert!((320..370).contains(&bytes_per_line), "{bytes_per_line}");
    }
}
