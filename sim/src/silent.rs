//! An address that is silent when asked to connect, as one behind a firewall that drops what it does not like.
//!
//! A listener whose queue of connections is full drops further requests for one (Linux, listen(2): the backlog), so that whoever
//! asks hears nothing and asks again, until it gives up.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// Nobody on one machine takes longer to connect who connects at all.
const CONNECT_WAIT: Duration = Duration::from_millis(500);
/// More than a queue that was asked to be empty holds.
const CONNECTIONS_MAX: usize = 64;

/// A listener that takes no connection; closed when dropped.
#[derive(Debug)]
pub struct SilentAddress {
    address: SocketAddr,
    _listener: TcpListener,
    _queued: Vec<TcpStream>,
}

impl SilentAddress {
    /// Opens one and fills its queue until a further connection hears nothing.
    ///
    /// # Panics
    /// When the queue does not become full: a test that uses the address would prove nothing.
    pub fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound port");
        socket2::SockRef::from(&listener).listen(0).expect("a shorter queue");
        let mut queued = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, CONNECT_WAIT) {
            queued.push(stream);
            assert!(queued.len() < CONNECTIONS_MAX, "the queue of {address} has no end");
        }
        Self { address, _listener: listener, _queued: queued }
    }

    /// Where nobody answers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_told_anything() {
        let silent = SilentAddress::open();
        let error = TcpStream::connect_timeout(&silent.address(), Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    }
}
