//! The third level: Redis or Valkey, with a deadline on every call and a breaker in front.
//!
//! A key there is `weir:NAMESPACE:EPOCH:KEY`. Values carry the time of their commit, and newer wins: a slow writer cannot
//! bring back what was overwritten or deleted since (a delete writes a tombstone). What cannot be told to the remote level
//! raises the namespace's epoch instead, which makes everything under the old one unreachable; the epoch is also kept
//! remotely, so that other machines follow.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::{Client, Connection, Script, Value};
use weir_base::{Clock, Kind, Retry};
use weir_limits::Breaker;

use crate::error::{Error, Result};
use crate::options::RemoteOptions;

const MAGIC: &[u8; 4] = b"WRC1";
const HEADER_BYTES: usize = 4 + 8 + 8 * 5 + 1 + 4;
const IDLE_MAX: usize = 4;
/// How long a deleted key is remembered; a writer slower than this has passed every deadline.
const TOMBSTONE_MS: i64 = 3_600_000;
/// Largest value sent or accepted.
const VALUE_BYTES_MAX: usize = 64 << 20;

/// Stores `ARGV[1]` unless what is there was committed later: bytes 4 to 11 are the commit time, big endian.
const PUT: &str = "local old = redis.call('GETRANGE', KEYS[1], 4, 11)
if old == '' or old <= string.sub(ARGV[1], 5, 12) then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
local epoch = tonumber(redis.call('GET', KEYS[2]) or '0')
if tonumber(ARGV[3]) > epoch then redis.call('SET', KEYS[2], ARGV[3]) return tonumber(ARGV[3]) end
return epoch";

/// An entry as it travels.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Packet {
    pub(crate) committed_ns: i64,
    pub(crate) version: i64,
    pub(crate) written_ms: i64,
    pub(crate) expires_ms: i64,
    pub(crate) dead_ms: i64,
    pub(crate) cost_us: u64,
    pub(crate) kind: PacketKind,
    pub(crate) value: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PacketKind {
    Value = 0,
    Absent = 1,
    Tombstone = 2,
}

impl Packet {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.value.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&(self.committed_ns.max(0) as u64).to_be_bytes());
        for field in [self.version, self.written_ms, self.expires_ms, self.dead_ms, self.cost_us as i64] {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        bytes.push(self.kind as u8);
        let crc = weir_base::checksum::crc32c_append(weir_base::checksum::crc32c(&bytes), &self.value);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes.extend_from_slice(&self.value);
        bytes
    }

    /// `None` when the bytes are not a packet or are damaged.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (header, value) = bytes.split_at_checked(HEADER_BYTES)?;
        let (fields, crc) = header.split_last_chunk::<4>()?;
        let found = weir_base::checksum::crc32c_append(weir_base::checksum::crc32c(fields), value);
        if found != u32::from_le_bytes(*crc) || !fields.starts_with(MAGIC) {
            return None;
        }
        let committed_ns = u64::from_be_bytes(fields[4..12].try_into().ok()?) as i64;
        let (words, rest) = fields[12..].as_chunks::<8>();
        let [version, written_ms, expires_ms, dead_ms, cost_us] =
            <[_; 5]>::try_from(words).ok()?.map(i64::from_le_bytes);
        let kind = match rest {
            [0] => PacketKind::Value,
            [1] => PacketKind::Absent,
            [2] => PacketKind::Tombstone,
            _ => return None,
        };
        let value = value.to_vec();
        Some(Self {
            committed_ns,
            version,
            written_ms,
            expires_ms,
            dead_ms,
            cost_us: cost_us.max(0) as u64,
            kind,
            value,
        })
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Remote {
    client: Client,
    namespace: String,
    options: RemoteOptions,
    breaker: Breaker,
    clock: Arc<dyn Clock>,
    idle: Mutex<Vec<Connected>>,
    put: Script,
}

struct Connected(Connection);

impl std::fmt::Debug for Connected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connected")
    }
}

/// What a remote read found: the epoch there, and the packet of this epoch if any.
pub(crate) struct Fetched {
    pub(crate) epoch: u64,
    pub(crate) packet: Option<Packet>,
    /// There was something, but it was not what was written.
    pub(crate) damaged: bool,
}

fn failed(source: redis::RedisError) -> Error {
    Error::wrap(Kind::Unavailable, "the remote cache did not answer", source).with_retry(Retry::Backoff)
}

impl Remote {
    pub(crate) fn new(options: &RemoteOptions, namespace: &str, clock: Arc<dyn Clock>) -> Result<Self> {
        let client = Client::open(options.url.as_str())
            .map_err(|error| Error::wrap(Kind::Invalid, "the remote cache's address cannot be read", error))?;
        Ok(Self {
            client,
            namespace: namespace.to_owned(),
            breaker: Breaker::new(options.breaker_failures, options.breaker_period),
            options: options.clone(),
            clock,
            idle: Mutex::new(Vec::new()),
            put: Script::new(PUT),
        })
    }

    /// Whether it is being left alone after failures.
    pub(crate) fn is_open(&self) -> bool {
        self.breaker.is_open(&*self.clock)
    }

    fn key(&self, epoch: u64, key: &[u8]) -> Vec<u8> {
        let mut name = format!("weir:{}:{epoch}:", self.namespace).into_bytes();
        name.extend_from_slice(key);
        name
    }

    fn epoch_key(&self) -> String {
        format!("weir:{}:epoch", self.namespace)
    }

    fn connect(&self) -> Result<Connected> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(connection) = idle {
            return Ok(connection);
        }
        let deadline = self.options.deadline.max(Duration::from_millis(1));
        let connection = self.client.get_connection_with_timeout(deadline).map_err(failed)?;
        connection.set_read_timeout(Some(deadline)).map_err(failed)?;
        connection.set_write_timeout(Some(deadline)).map_err(failed)?;
        Ok(Connected(connection))
    }

    /// One call inside breaker and deadline. A connection that failed is not used again: an answer may still be under way.
    fn call<T>(&self, body: impl FnOnce(&mut Connection) -> redis::RedisResult<T>) -> Result<T> {
        if !self.breaker.allows(&*self.clock) {
            return Err(Error::new(Kind::Unavailable, "the remote cache is being left alone after failures")
                .with_retry(Retry::After(self.options.breaker_period)));
        }
        let outcome =
            self.connect().and_then(|mut connection| Ok((body(&mut connection.0).map_err(failed)?, connection)));
        match outcome {
            Ok((value, connection)) => {
                self.breaker.succeeded();
                let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
                if idle.len() < IDLE_MAX {
                    idle.push(connection);
                }
                Ok(value)
            }
            Err(error) => {
                let idle = std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner));
                drop(idle);
                self.breaker.failed(&*self.clock);
                Err(error)
            }
        }
    }

    /// Reads a key of `epoch`.
    pub(crate) fn get(&self, epoch: u64, key: &[u8]) -> Result<Fetched> {
        let found: Vec<Value> = self
            .call(|connection| redis::cmd("MGET").arg(self.epoch_key()).arg(self.key(epoch, key)).query(connection))?;
        let bytes = |index: usize| match found.get(index) {
            Some(Value::BulkString(bytes)) => Some(bytes.as_slice()),
            _ => None,
        };
        let there = bytes(0).and_then(|text| std::str::from_utf8(text).ok()?.parse().ok()).unwrap_or(0);
        let raw = bytes(1).filter(|raw| raw.len() <= VALUE_BYTES_MAX + HEADER_BYTES);
        let packet = raw.and_then(Packet::decode);
        Ok(Fetched { epoch: there, damaged: raw.is_some() && packet.is_none(), packet })
    }

    /// Stores a packet unless a later one is there; gives the remote epoch.
    pub(crate) fn put(&self, epoch: u64, key: &[u8], packet: &Packet) -> Result<u64> {
        if packet.value.len() > VALUE_BYTES_MAX {
            return Err(Error::new(Kind::Limit, "the value is too large for the remote cache"));
        }
        let now_ms = self.clock.now() / 1_000_000;
        let kept_ms = i64::try_from(self.options.ttl_max.as_millis()).unwrap_or(i64::MAX);
        let ttl_ms = match packet.kind {
            PacketKind::Tombstone => TOMBSTONE_MS,
            _ => packet.dead_ms.saturating_sub(now_ms).clamp(1, kept_ms.max(1)),
        };
        self.call(|connection| {
            self.put
                .key(self.key(epoch, key))
                .key(self.epoch_key())
                .arg(packet.encode())
                .arg(ttl_ms)
                .arg(epoch)
                .invoke(connection)
        })
    }

    /// Makes the remote epoch at least `epoch`.
    pub(crate) fn raise(&self, epoch: u64) -> Result<()> {
        const RAISE: &str = "local epoch = tonumber(redis.call('GET', KEYS[1]) or '0')
if tonumber(ARGV[1]) > epoch then redis.call('SET', KEYS[1], ARGV[1]) end";
        self.call(|connection| Script::new(RAISE).key(self.epoch_key()).arg(epoch).invoke(connection))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_survive_and_every_flipped_bit_is_noticed() {
        let packet = Packet {
            committed_ns: 5,
            version: -7,
            written_ms: 1,
            expires_ms: i64::MAX,
            dead_ms: 9,
            cost_us: 3,
            kind: PacketKind::Absent,
            value: b"value".to_vec(),
        };
        let bytes = packet.encode();
        assert_eq!(Packet::decode(&bytes), Some(packet));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Packet::decode(&flipped), None, "C1: bit {bit}");
        }
        for len in 0..bytes.len() {
            assert_eq!(Packet::decode(&bytes[..len]), None);
        }
    }
}
