//! [`Access`]: the identity center as a target of operations.
//!
//! An assignment is created or deleted by a request that AWS accepts and works on; it is done only when AWS says so. A request whose
//! answer was lost is looked for among those in progress before anything is called again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aws_sdk_ssoadmin::types::{
    AccountAssignmentOperationStatus, OperationStatusFilter, PrincipalType, StatusValues, TargetType,
};
use weir_limits::Deadline;
use weir_ops::{Asked, Class, Entry, Failure, Started, Target, Value};

use crate::assignment::{Assignment, PrincipalKind};
use crate::client::Client;
use crate::{Result, classify, permission_set};

/// The identity center as a target.
#[derive(Debug)]
pub struct Access<'a> {
    pub(crate) client: &'a Client,
    name: String,
    pub(crate) instance: String,
}

/// What the name of the target begins with; the rest is the ARN of the instance.
pub const TARGET_PREFIX: &str = "aws-sso:";

impl<'a> Access<'a> {
    /// The target behind a client.
    ///
    /// # Errors
    /// What finding the instance gives.
    pub fn new(client: &'a Client) -> Result<Self> {
        let instance = client.instance()?.arn.clone();
        Ok(Self { client, name: format!("{TARGET_PREFIX}{instance}"), instance })
    }

    /// Who has a permission set in an account.
    pub(crate) fn holders(&self, permission_set: &str, account: &str) -> Result<BTreeSet<Assignment>, Failure> {
        let (client, mut found, mut token) = (self.client, BTreeSet::new(), None::<String>);
        loop {
            let page = client.read(|| {
                let ask = client.sso.list_account_assignments().instance_arn(&self.instance).account_id(account);
                ask.permission_set_arn(permission_set).set_next_token(token.clone()).send()
            });
            let page = match page {
                Ok(page) => page,
                // Where the permission set or the account is not there, nobody has it.
                Err(failure) if is_not_found(&failure) => return Ok(found),
                Err(failure) => return Err(failure),
            };
            for one in page.account_assignments() {
                let kind = one.principal_type().and_then(|kind| PrincipalKind::parse(kind.as_str()));
                if let (Some(principal_type), Some(id)) = (kind, one.principal_id()) {
                    found.insert(Assignment {
                        principal_type,
                        principal_id: id.to_owned(),
                        permission_set: permission_set.to_owned(),
                        account: account.to_owned(),
                    });
                }
            }
            token = page.next_token().filter(|token| !token.is_empty()).map(str::to_owned);
            if token.is_none() {
                return Ok(found);
            }
        }
    }

    /// The direct assignments of a principal.
    pub(crate) fn of_principal(&self, kind: PrincipalKind, id: &str) -> Result<BTreeSet<Assignment>, Failure> {
        let (client, mut found, mut token) = (self.client, BTreeSet::new(), None::<String>);
        loop {
            let page = client.read(|| {
                let ask = client.sso.list_account_assignments_for_principal().instance_arn(&self.instance);
                let ask = ask.principal_id(id).principal_type(PrincipalType::from(kind.word()));
                ask.set_next_token(token.clone()).send()
            });
            let page = match page {
                Ok(page) => page,
                Err(failure) if is_not_found(&failure) => return Ok(found),
                Err(failure) => return Err(failure),
            };
            for one in page.account_assignments() {
                // What a user has through a group is listed under the group's id.
                let direct = one.principal_id() == Some(id);
                if let (true, Some(set), Some(account)) = (direct, one.permission_set_arn(), one.account_id()) {
                    found.insert(Assignment {
                        principal_type: kind,
                        principal_id: id.to_owned(),
                        permission_set: set.to_owned(),
                        account: account.to_owned(),
                    });
                }
            }
            token = page.next_token().filter(|token| !token.is_empty()).map(str::to_owned);
            if token.is_none() {
                return Ok(found);
            }
        }
    }

    /// Which of these assignments are there, with as few questions as it takes.
    fn present(&self, wanted: &BTreeSet<Assignment>) -> Result<BTreeSet<Assignment>, Failure> {
        let principals: BTreeSet<(PrincipalKind, &str)> =
            wanted.iter().map(|one| (one.principal_type, one.principal_id.as_str())).collect();
        let places: BTreeSet<(&str, &str)> =
            wanted.iter().map(|one| (one.permission_set.as_str(), one.account.as_str())).collect();
        let mut found = BTreeSet::new();
        // A principal may have many pages, a place seldom has two.
        if principals.len() * 8 < places.len() {
            for (kind, id) in principals {
                found.append(&mut self.of_principal(kind, id)?);
            }
        } else {
            for (set, account) in places {
                found.append(&mut self.holders(set, account)?);
            }
        }
        Ok(found)
    }

    fn create(&self, one: &Assignment, deadline: Deadline) -> Result<Started, Failure> {
        let ask = self.client.sso.create_account_assignment().instance_arn(&self.instance);
        let ask = ask.target_id(&one.account).target_type(TargetType::AwsAccount);
        let ask = ask.permission_set_arn(&one.permission_set).principal_id(&one.principal_id);
        let ask = ask.principal_type(PrincipalType::from(one.principal_type.word()));
        let answer = self.client.call(deadline, ask.send())?;
        started(answer.account_assignment_creation_status())
    }

    fn delete(&self, one: &Assignment, deadline: Deadline) -> Result<Started, Failure> {
        let ask = self.client.sso.delete_account_assignment().instance_arn(&self.instance);
        let ask = ask.target_id(&one.account).target_type(TargetType::AwsAccount);
        let ask = ask.permission_set_arn(&one.permission_set).principal_id(&one.principal_id);
        let ask = ask.principal_type(PrincipalType::from(one.principal_type.word()));
        let answer = self.client.call(deadline, ask.send()).map_err(|failure| match is_not_found(&failure) {
            // It was there when the plan was checked: whether it is gone, or the answer was wrong, a read has to say.
            true => Failure { class: Class::Retry, ..failure },
            false => failure,
        })?;
        started(answer.account_assignment_deletion_status())
    }

    /// How a request stands; `None` when AWS does not know it any more.
    fn status(
        &self,
        creates: bool,
        request: &str,
        deadline: Deadline,
    ) -> Result<Option<AccountAssignmentOperationStatus>, Failure> {
        let sso = &self.client.sso;
        let answer = if creates {
            let ask = sso.describe_account_assignment_creation_status().instance_arn(&self.instance);
            let ask = ask.account_assignment_creation_request_id(request).send();
            self.client.call(deadline, ask).map(|answer| answer.account_assignment_creation_status)
        } else {
            let ask = sso.describe_account_assignment_deletion_status().instance_arn(&self.instance);
            let ask = ask.account_assignment_deletion_request_id(request).send();
            self.client.call(deadline, ask).map(|answer| answer.account_assignment_deletion_status)
        };
        match answer {
            Err(failure) if is_not_found(&failure) => Ok(None),
            other => other,
        }
    }

    /// Ids of the requests that are in progress.
    fn in_progress(&self, creates: bool) -> Result<Vec<String>, Failure> {
        let filter = OperationStatusFilter::builder().status(StatusValues::InProgress).build();
        let (client, mut found, mut token) = (self.client, Vec::new(), None::<String>);
        loop {
            let (page, next) = if creates {
                let page = client.read(|| {
                    let ask = client.sso.list_account_assignment_creation_status().instance_arn(&self.instance);
                    ask.filter(filter.clone()).set_next_token(token.clone()).send()
                })?;
                (page.account_assignments_creation_status, page.next_token)
            } else {
                let page = client.read(|| {
                    let ask = client.sso.list_account_assignment_deletion_status().instance_arn(&self.instance);
                    ask.filter(filter.clone()).set_next_token(token.clone()).send()
                })?;
                (page.account_assignments_deletion_status, page.next_token)
            };
            found.extend(page.unwrap_or_default().into_iter().filter_map(|one| one.request_id));
            token = next.filter(|token| !token.is_empty());
            if token.is_none() {
                return Ok(found);
            }
        }
    }

    /// The request in progress for an assignment, whoever made it.
    fn find_request(&self, one: &Assignment, creates: bool, deadline: Deadline) -> Result<Option<String>, Failure> {
        for request in self.in_progress(creates)? {
            let Some(status) = self.status(creates, &request, deadline)? else { continue };
            let same = status.target_id() == Some(&one.account)
                && status.principal_id() == Some(&one.principal_id)
                && status.permission_set_arn() == Some(&one.permission_set);
            if same && status.status() == Some(&StatusValues::InProgress) {
                return Ok(Some(request));
            }
        }
        Ok(None)
    }

    fn ask_assignment(
        &self,
        one: &Assignment,
        to: &Value,
        request: Option<&str>,
        deadline: Deadline,
    ) -> Result<Asked, Failure> {
        let creates = to.is_some();
        if let Some(request) = request
            && let Some(status) = self.status(creates, request, deadline)?
        {
            return Ok(asked(&status, request));
        }
        if request.is_none() {
            match self.find_request(one, creates, deadline) {
                Ok(Some(request)) => return Ok(Asked::Accepted { request }),
                Ok(None) => {}
                // An endpoint that cannot list them leaves the state to be read. Should the request be in progress all the same, another
                // one like it is a conflict, which is waited out.
                Err(failure) if matches!(failure.class, Class::Skip | Class::Retry) => {}
                Err(failure) => return Err(failure),
            }
        }
        let there = self.holders(&one.permission_set, &one.account)?.contains(one);
        let state = if there { Assignment::present() } else { None };
        Ok(if state == *to { Asked::Done } else { Asked::State(state) })
    }
}

fn is_not_found(failure: &Failure) -> bool {
    failure.class == Class::Skip && failure.reason.starts_with("ResourceNotFound")
}

/// What a create or delete began. Only a terminal status counts as done.
fn started(status: Option<&AccountAssignmentOperationStatus>) -> Result<Started, Failure> {
    let unclear = || Failure::new(Class::Retry, "the identity center accepted a request without saying which");
    let status = status.ok_or_else(unclear)?;
    let request = status.request_id().map(str::to_owned);
    match status.status() {
        Some(StatusValues::Succeeded) => Ok(Started::Done { request }),
        Some(StatusValues::Failed) => Err(Failure { request, ..classify::failed_request(status.failure_reason()) }),
        _ => Ok(Started::Accepted { request: request.ok_or_else(unclear)? }),
    }
}

fn asked(status: &AccountAssignmentOperationStatus, request: &str) -> Asked {
    match status.status() {
        Some(StatusValues::Succeeded) => Asked::Done,
        Some(StatusValues::Failed) => {
            let failure = classify::failed_request(status.failure_reason());
            Asked::Failed(Failure { request: Some(request.to_owned()), ..failure })
        }
        _ => Asked::Accepted { request: request.to_owned() },
    }
}

fn not_ours(key: &str) -> Failure {
    Failure::new(Class::Skip, format!("'{key}' is neither an assignment nor a permission set"))
}

impl Target for Access<'_> {
    fn name(&self) -> &str {
        &self.name
    }

    fn read(&self, keys: &[&str], _deadline: Deadline) -> Result<Vec<Value>, Failure> {
        let assignments: BTreeSet<Assignment> = keys.iter().filter_map(|key| Assignment::from_key(key)).collect();
        let names: Vec<&str> = keys.iter().filter_map(|key| permission_set::name_of(key)).collect();
        let present = self.present(&assignments)?;
        let sets: BTreeMap<String, Value> = self.read_permission_sets(&names)?;
        keys.iter()
            .map(|key| match (Assignment::from_key(key), permission_set::name_of(key)) {
                (Some(one), _) => Ok(if present.contains(&one) { Assignment::present() } else { None }),
                (None, Some(name)) => Ok(sets.get(name).cloned().flatten()),
                (None, None) => Err(not_ours(key)),
            })
            .collect()
    }

    fn start(&self, entry: &Entry, to: &Value, deadline: Deadline) -> Result<Started, Failure> {
        match (Assignment::from_key(&entry.key), permission_set::name_of(&entry.key)) {
            (Some(one), _) if to.is_some() => self.create(&one, deadline),
            (Some(one), _) => self.delete(&one, deadline),
            (None, Some(name)) => self.converge(name, to, deadline),
            (None, None) => Err(not_ours(&entry.key)),
        }
    }

    fn ask(&self, entry: &Entry, to: &Value, request: Option<&str>, deadline: Deadline) -> Result<Asked, Failure> {
        if let Some(one) = Assignment::from_key(&entry.key) {
            return self.ask_assignment(&one, to, request, deadline);
        }
        let state = self.read(&[&entry.key], deadline)?.into_iter().next().unwrap_or(None);
        Ok(if state == *to { Asked::Done } else { Asked::State(state) })
    }

    fn is_between(&self, entry: &Entry, from: &Value, to: &Value, state: &Value) -> bool {
        permission_set::name_of(&entry.key).is_some() && permission_set::is_between(from, to, state)
    }

    fn outstanding_max(&self) -> usize {
        self.client.settings.outstanding_max
    }

    fn ask_pause(&self) -> Duration {
        self.client.settings.ask_pause
    }
}
