//! What is counted of one shard in one window.

use super::key_sample::{KEY_BYTES_MAX, Reservoir};
use super::origins::Origins;
use super::report::{HotKey, HotUser, OriginUse, ShardWindow};
use super::top::Top;
use super::{Access, OriginId};

/// Keys with the most accesses, kept a shard and window.
pub const HOT_KEYS_MAX: usize = 16;
/// Users with the most accesses, kept a shard and window.
pub const HOT_USERS_MAX: usize = 16;

const USER_BYTES_MAX: usize = 64;
/// Origins told apart for each hot user; its accesses from others count towards the user alone.
const ORIGINS_OF_A_USER_MAX: usize = 4;

/// Filled from the front. An array, because a slot changes its user often and must not allocate then.
type OriginsOfUser = [Option<(OriginId, u64)>; ORIGINS_OF_A_USER_MAX];

#[derive(Debug)]
pub(super) struct ShardProfile {
    origins: Vec<(OriginId, OriginUse)>,
    keys: Reservoir,
    hot_keys: Top<()>,
    hot_users: Top<OriginsOfUser>,
}

impl ShardProfile {
    pub(super) fn new(seed: u64) -> Self {
        ShardProfile {
            origins: Vec::new(),
            keys: Reservoir::new(seed),
            hot_keys: Top::new(HOT_KEYS_MAX, KEY_BYTES_MAX),
            hot_users: Top::new(HOT_USERS_MAX, USER_BYTES_MAX),
        }
    }

    pub(super) fn record(&mut self, access: &Access<'_>, key_digest: u64, user_digest: u64) {
        self.use_of(access.origin).count(access.op, access.bytes);
        self.keys.add(access.key, access.origin);
        self.hot_keys.add(access.key, key_digest);
        if !access.user.is_empty() {
            count_origin(
                self.hot_users.add(access.user.as_bytes(), user_digest),
                access.origin,
            );
        }
    }

    fn use_of(&mut self, origin: OriginId) -> &mut OriginUse {
        let index = self
            .origins
            .iter()
            .position(|(known, _)| *known == origin)
            .unwrap_or_else(|| {
                self.origins.push((origin, OriginUse::default()));
                self.origins.len() - 1
            });
        &mut self.origins[index].1
    }

    pub(super) fn into_window(self, names: &Origins) -> ShardWindow {
        let hot_keys = self.hot_keys.into_heaviest().into_iter();
        let hot_users = self.hot_users.into_heaviest().into_iter();
        ShardWindow {
            origins: self
                .origins
                .into_iter()
                .map(|(origin, used)| (names.name(origin), used))
                .collect(),
            keys: self.keys.into_sample(names),
            hot_keys: hot_keys
                .map(|slot| HotKey {
                    key: slot.label,
                    count: slot.count,
                    error: slot.error,
                })
                .collect(),
            hot_users: hot_users
                .map(|slot| HotUser {
                    user: String::from_utf8_lossy(&slot.label).into_owned(),
                    count: slot.count,
                    error: slot.error,
                    origins: slot
                        .extra
                        .into_iter()
                        .flatten()
                        .map(|(origin, count)| (names.name(origin), count))
                        .collect(),
                })
                .collect(),
        }
    }
}

fn count_origin(origins: &mut OriginsOfUser, origin: OriginId) {
    for place in origins {
        match place {
            Some((known, count)) if *known == origin => {
                *count += 1;
                return;
            }
            Some(_) => {}
            None => {
                *place = Some((origin, 1));
                return;
            }
        }
    }
}
