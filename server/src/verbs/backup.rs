//! `godwit backup`: a cluster into a folder, a folder checked, a folder into a cluster.
//!
//! What is going on is told on standard error; the answer comes at the end. The time and the backup's name are taken here.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use client::{KeyRange, proto::ShardsRequest};
use rand::TryRng;
use serde_json::{Value, json};

use super::{
    Exit, VerbError,
    connect::{client_of, failed, operator},
};
use crate::backup::{self, Backup, Manifest, Order, RestoreOptions, Restored, Source, Verified};
use crate::cli::{BackupArgs, BackupCreateArgs, BackupRestoreArgs, BackupVerb, ConnectArgs};

/// How long one call may take, retries included: longer than a shard needs to find a new home.
const CALL: Duration = Duration::from_secs(60);

/// Does what the verb says and prints its answer.
pub async fn backup(connect: &ConnectArgs, args: BackupArgs, out: &mut dyn Write) -> Result<Exit, VerbError> {
    let (document, text) = match args.verb {
        BackupVerb::Create(create) => created(&make(connect, create).await?),
        BackupVerb::Verify(verify) => verified(&backup::verify(&verify.folders)?),
        BackupVerb::Restore(restore) => restored(&bring_back(connect, restore).await?),
    };
    match args.json {
        true => writeln!(out, "{document}")?,
        false => writeln!(out, "{text}")?,
    }
    Ok(Exit::Ok)
}

async fn make(connect: &ConnectArgs, create: BackupCreateArgs) -> Result<Manifest, VerbError> {
    let base = create.incremental_from.as_deref().map(Backup::open);
    let order = Order {
        base: base.transpose()?,
        id: new_id(&create.folder)?,
        folder: create.folder,
        begun_ms: now_ms(),
        piece: Duration::from_millis(create.piece_ms),
    };
    let source = source(connect).await?;
    Ok(backup::create(&source, order, &tell).await?)
}

/// The cluster that answers, and no other afterwards.
async fn source(connect: &ConnectArgs) -> Result<Source, VerbError> {
    let admin = operator(connect)?;
    let look = "godwit admin shards";
    let status = admin.status().await.map_err(failed(connect, look))?;
    let request = ShardsRequest {
        shard_id: 0,
        placement_group: false,
    };
    let reply = admin.shards(request).await.map_err(failed(connect, look))?;
    let shards = reply.shards.into_iter().map(|shard| {
        let range = KeyRange {
            start: shard.start,
            end: shard.end,
        };
        (shard.shard_id, range)
    });
    let mut shards: Vec<_> = shards.collect();
    shards.sort_by(|a, b| a.1.start.cmp(&b.1.start));
    Ok(Source {
        client: client_of(connect, Some(status.cluster_id.clone()), CALL).await?,
        cluster_id: status.cluster_id,
        shards,
    })
}

async fn bring_back(connect: &ConnectArgs, restore: BackupRestoreArgs) -> Result<Restored, VerbError> {
    let Verified { chain, .. } = backup::verify(&restore.folders)?;
    let client = client_of(connect, None, CALL).await?;
    let options = RestoreOptions {
        into_non_empty: restore.into_non_empty,
        skip_leased: restore.skip_leased,
    };
    Ok(backup::restore(&client, &chain, options, &tell).await?)
}

fn tell(line: String) {
    eprintln!("{line}");
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn new_id(folder: &Path) -> Result<String, VerbError> {
    let mut bytes = [0; 16];
    let drawn = rand::rngs::SysRng.try_fill_bytes(&mut bytes);
    drawn.map_err(|error| backup::CreateError::File {
        path: PathBuf::from(folder),
        source: io::Error::other(error),
    })?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

fn created(manifest: &Manifest) -> (Value, String) {
    let versions: u64 = manifest.shards.iter().map(|shard| shard.versions).sum();
    let data_bytes: u64 = manifest.shards.iter().map(|shard| shard.data_bytes).sum();
    let file_bytes: u64 = manifest.shards.iter().map(|shard| shard.file_bytes).sum();
    let shards = manifest.shards.iter().map(|shard| {
        json!({
            "shard_id": shard.shard_id,
            "after": shard.after,
            "revision": shard.revision,
            "versions": shard.versions,
        })
    });
    let document = json!({
        "id": manifest.id,
        "cluster_id": manifest.cluster_id,
        "begun_ms": manifest.begun_ms,
        "base": manifest.base.as_ref().map(|base| &base.id),
        "versions": versions,
        "data_bytes": data_bytes,
        "file_bytes": file_bytes,
        "shards": shards.collect::<Vec<Value>>(),
    });
    let text = format!(
        "backup {} of {} shards: {versions} versions, {data_bytes} bytes in {file_bytes}",
        manifest.id,
        manifest.shards.len()
    );
    (document, text)
}

fn verified(verified: &Verified) -> (Value, String) {
    let keys: u64 = verified.keys.iter().sum();
    let backups = verified.chain.backups();
    let ids: Vec<&str> = backups.iter().map(|backup| &*backup.manifest.id).collect();
    let shards = verified.chain.shards().iter().zip(&verified.keys);
    let shards = shards
        .map(|(shard, keys)| json!({ "shard_id": shard.shard_id, "revision": shard.revision, "keys": keys }));
    let document = json!({ "backups": ids, "keys": keys, "shards": shards.collect::<Vec<Value>>() });
    let text = format!(
        "whole: {keys} keys of {} shards in a chain of {}",
        verified.keys.len(),
        ids.len()
    );
    (document, text)
}

fn restored(restored: &Restored) -> (Value, String) {
    let Restored {
        keys,
        data_bytes,
        skipped,
        others,
    } = restored;
    let document = json!({ "keys": keys, "data_bytes": data_bytes, "skipped": skipped, "others": others });
    let mut text = format!("restored {keys} keys, {data_bytes} bytes, and found them there");
    if *skipped > 0 {
        text.push_str(&format!("; left out {skipped} that hung on a lease"));
    }
    if *others > 0 {
        text.push_str(&format!("; {others} others were there"));
    }
    (document, text)
}
