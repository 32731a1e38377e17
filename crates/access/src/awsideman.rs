//! Operations that awsideman recorded, as operations of Weir: they can be listed, and undone.
//!
//! The three shapes of its records are in vikyol/awsideman:src/awsideman/rollback/models.py: assign and revoke, copied assignments,
//! cloned permission sets. Its rollbacks say only which operation they undid.

use serde_json::{Map, Value as Json};
use weir_base::Timestamp;
use weir_base::checksum::blake3;
use weir_base::id::Uuid;
use weir_ops::{Entry, Operation, Progress, State, Step};

use crate::assignment::{Assignment, Names, PrincipalKind};
use crate::target::TARGET_PREFIX;
use crate::{Error, Result, partition, permission_set};

/// The operation that a record describes. The same record gives the same id each time.
///
/// # Errors
/// `Invalid` when it has none of the known shapes.
pub fn operation(record: &[u8], time: Timestamp) -> Result<Operation> {
    let record: Map<String, Json> = serde_json::from_slice(record)
        .map_err(|error| Error::wrap(weir_base::Kind::Invalid, "the record is no JSON object", error))?;
    let text = |name: &str| record.get(name).and_then(Json::as_str);
    let id = text("operation_id").ok_or_else(|| Error::invalid("the record has no operation_id"))?;
    let (kind, instance, entries, results) = if record.contains_key("source_permission_set_arn") {
        clone(&record)
    } else if record.contains_key("source_entity_id") {
        copy(&record)
    } else if record.contains_key("account_ids") {
        assign(&record)
    } else {
        None
    }
    .ok_or_else(|| Error::invalid(format!("record {id} has none of the known shapes")))?;
    let progress = results
        .into_iter()
        .map(|reason| Progress {
            step: if reason.is_none() { Step::Done } else { Step::Failed },
            attempts: 1,
            request: None,
            reason: reason.filter(|reason| !reason.is_empty()),
            started: Some(time),
            ended: Some(time),
        })
        .collect();
    let id_here = stable_id(id, time);
    let mut operation = Operation {
        id: id_here,
        run: id_here,
        time,
        kind,
        target: format!("{TARGET_PREFIX}{instance}"),
        actor: "awsideman".to_owned(),
        undoes: Vec::new(),
        plan: String::new(),
        origin: Some(format!("awsideman:{id}")),
        state: State::Running,
        verified: false,
        wrong: Vec::new(),
        ended: Some(time),
        entries,
        progress,
    };
    let done = operation.count(Step::Done);
    operation.state = match done {
        done if done as usize == operation.entries.len() => State::Done,
        0 => State::Failed,
        _ => State::Partial,
    };
    Ok(operation)
}

/// Kind, ARN of the instance, entries, and for each entry why it failed.
type Parts = (String, String, Vec<Entry>, Vec<Option<String>>);

fn str_of<'a>(record: &'a Map<String, Json>, name: &str) -> Option<&'a str> {
    record.get(name)?.as_str()
}

fn list_of<'a>(record: &'a Map<String, Json>, name: &str) -> Vec<&'a str> {
    record.get(name).and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str).collect()
}

fn assign(record: &Map<String, Json>) -> Option<Parts> {
    let kind = str_of(record, "operation_type")?;
    let present = match kind {
        "assign" => true,
        "revoke" => false,
        _ => return None,
    };
    let set = str_of(record, "permission_set_arn")?;
    let results = record.get("results").and_then(Json::as_array);
    let account_names = list_of(record, "account_names");
    let (mut entries, mut outcomes) = (Vec::new(), Vec::new());
    for (at, account) in list_of(record, "account_ids").into_iter().enumerate() {
        let assignment = Assignment {
            principal_type: PrincipalKind::parse(str_of(record, "principal_type")?)?,
            principal_id: str_of(record, "principal_id")?.to_owned(),
            permission_set: set.to_owned(),
            account: account.to_owned(),
        };
        let names = Names {
            principal: str_of(record, "principal_name").map(str::to_owned),
            permission_set: str_of(record, "permission_set_name").map(str::to_owned),
            account: account_names.get(at).map(|name| (*name).to_owned()),
        };
        let mut entry = assignment.entry(&names, present);
        entry.before = if present { None } else { Assignment::present() };
        entries.push(entry);
        let result = results.into_iter().flatten().find(|result| result["account_id"] == *account);
        outcomes.push(match result {
            Some(result) if result["success"] == true => None,
            Some(result) => Some(result["error"].as_str().unwrap_or("failed").to_owned()),
            None => Some("awsideman recorded no result".to_owned()),
        });
    }
    Some((kind.to_owned(), partition::instance_of(set)?, entries, outcomes))
}

fn copy(record: &Map<String, Json>) -> Option<Parts> {
    let principal_type = PrincipalKind::parse(str_of(record, "target_entity_type")?)?;
    let id = str_of(record, "target_entity_id")?;
    let names = Names { principal: str_of(record, "target_entity_name").map(str::to_owned), ..Names::default() };
    let (mut entries, mut instance) = (Vec::new(), None);
    for copied in list_of(record, "assignments_copied") {
        // ARN:account:principal; the ARN has colons of its own.
        let mut parts = copied.rsplitn(3, ':');
        let (_, account, set) = (parts.next()?, parts.next()?, parts.next()?);
        instance = instance.or_else(|| partition::instance_of(set));
        let assignment = Assignment {
            principal_type,
            principal_id: id.to_owned(),
            permission_set: set.to_owned(),
            account: account.to_owned(),
        };
        entries.push(assignment.entry(&names, true));
    }
    let sets = list_of(record, "permission_sets_involved");
    let instance = instance.or_else(|| sets.first().and_then(|set| partition::instance_of(set)))?;
    let outcomes = vec![None; entries.len()];
    Some(("copy".to_owned(), instance, entries, outcomes))
}

fn clone(record: &Map<String, Json>) -> Option<Parts> {
    let instance = partition::instance_of(str_of(record, "target_permission_set_arn")?)?;
    let name = str_of(record, "target_permission_set_name")?;
    // What the copy held was not recorded, only which policies: as far as is known.
    let policies = record.get("policies_copied").cloned().unwrap_or(Json::Null);
    let mut entry = Entry::new(permission_set::key(name), None, Some(serde_json::json!({ "recorded": policies })));
    entry.labels.insert("permission_set".to_owned(), name.to_owned());
    Some(("clone".to_owned(), instance, vec![entry], vec![None]))
}

/// A UUIDv7 of the record's time, its random part drawn from the record's own id.
fn stable_id(id: &str, time: Timestamp) -> Uuid {
    let digest = blake3(id.as_bytes());
    let millis = u128::from(u64::try_from(time / 1_000_000).unwrap_or(0) & 0xffff_ffff_ffff);
    let mut tail = [0; 16];
    tail[6..].copy_from_slice(&digest[..10]);
    let random = u128::from_be_bytes(tail);
    let version = (random & !(0xf << 76)) | (0x7 << 76);
    Uuid::from_u128((millis << 80) | ((version & !(0x3 << 62)) | (0x2 << 62)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SET: &str = "arn:aws:sso:::permissionSet/ssoins-1/ps-2";

    #[test]
    fn the_three_shapes() {
        let assign = format!(
            r#"{{"operation_id":"a","operation_type":"revoke","principal_id":"u","principal_type":"USER","principal_name":"alice",
            "permission_set_arn":"{SET}","permission_set_name":"Admin","account_ids":["1","2"],"account_names":["one","two"],
            "results":[{{"account_id":"1","success":true}},{{"account_id":"2","success":false,"error":"no"}}]}}"#
        );
        let found = operation(assign.as_bytes(), 1_700_000_000_000_000_000).unwrap();
        assert_eq!(
            (found.state, found.kind.as_str(), found.target.as_str()),
            (State::Partial, "revoke", "aws-sso:arn:aws:sso:::instance/ssoins-1")
        );
        assert_eq!((&found.entries[0].before, &found.entries[0].after), (&Assignment::present(), &None));
        assert_eq!(found.progress[1].reason.as_deref(), Some("no"));
        assert_eq!(found.id.get_version_num(), 7);
        assert_eq!(found.id, operation(assign.as_bytes(), 1_700_000_000_000_000_000).unwrap().id);
        let copied = format!(
            r#"{{"operation_id":"b","operation_type":"copy_assignments","source_entity_id":"s","target_entity_id":"t",
            "target_entity_type":"GROUP","target_entity_name":"ops","assignments_copied":["{SET}:111122223333:t"]}}"#
        );
        let found = operation(copied.as_bytes(), 0).unwrap();
        let one = Assignment::from_key(&found.entries[0].key).unwrap();
        assert_eq!(
            (one.account.as_str(), one.permission_set.as_str(), one.principal_id.as_str()),
            ("111122223333", SET, "t")
        );
        let cloned = format!(
            r#"{{"operation_id":"c","source_permission_set_name":"A","source_permission_set_arn":"{SET}",
            "target_permission_set_name":"B","target_permission_set_arn":"{SET}","policies_copied":{{"inline":["x"]}}}}"#
        );
        assert_eq!(operation(cloned.as_bytes(), 0).unwrap().entries[0].key, "permission-set/B");
        assert!(operation(br#"{"operation_id":"d"}"#, 0).is_err() && operation(b"{}", 0).is_err());
    }
}
