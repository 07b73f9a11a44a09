//! Who is at the other end of a loopback connection.
//!
//! `/proc/net/tcp` names the inode of every socket, `/proc/PID/fd` the inodes that a process holds. The lookup is
//! racy: a process may have closed the socket already. Then nobody holds it, and the connection counts as a client's.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;

use super::condition::End;

/// The processes of hosts, by id.
#[derive(Debug, Default)]
pub(super) struct Residents(Mutex<BTreeMap<u32, usize>>);

impl Residents {
    /// From now on `pid` is host `number`.
    pub(super) fn moved_in(&self, pid: u32, number: usize) {
        let mut known = self.0.lock().expect("no panic with the lock held");
        known.retain(|_, host| *host != number);
        known.insert(pid, number);
    }

    /// Which end opened the connection from `peer` to `ours`.
    pub(super) fn opened_by(&self, peer: SocketAddr, ours: SocketAddr) -> End {
        let known = self.0.lock().expect("no panic with the lock held").clone();
        let Some(inode) = inode_of(peer, ours) else {
            return End::Clients;
        };
        let target = format!("socket:[{inode}]");
        let holder = known.iter().find(|(pid, _)| holds(**pid, &target));
        holder.map_or(End::Clients, |(_, number)| End::Host(*number))
    }
}

fn holds(pid: u32, target: &str) -> bool {
    let Ok(descriptors) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    descriptors
        .flatten()
        .any(|entry| std::fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str() == target))
}

/// The socket whose local address is `local` and whose peer is `remote`.
fn inode_of(local: SocketAddr, remote: SocketAddr) -> Option<u64> {
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let (local, remote) = (as_in_table(local)?, as_in_table(remote)?);
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let same = fields.next()? == local && fields.next()? == remote;
        let inode = fields.nth(6)?.parse().ok()?;
        (same && inode != 0).then_some(inode)
    })
}

/// The kernel prints the address as one number of the machine's byte order, and the port as it is.
fn as_in_table(address: SocketAddr) -> Option<String> {
    let IpAddr::V4(ip) = address.ip() else { return None };
    Some(format!(
        "{:08X}:{:04X}",
        u32::from_ne_bytes(ip.octets()),
        address.port()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_socket_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = listener.local_addr().unwrap();
        let stream = std::net::TcpStream::connect(ours).unwrap();
        let peer = stream.local_addr().unwrap();
        let residents = Residents::default();
        assert_eq!(residents.opened_by(peer, ours), End::Clients);
        residents.moved_in(std::process::id(), 3);
        assert_eq!(residents.opened_by(peer, ours), End::Host(3));
    }
}
