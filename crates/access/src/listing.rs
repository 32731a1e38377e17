//! Listing assignments, and the wishes that copy them.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use weir_ops::Entry;

use crate::Result;
use crate::assignment::{Assignment, Names, PrincipalKind};
use crate::directory::{Directory, Named};
use crate::target::Access;

/// Which assignments; empty for all.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Users and groups, by name or id.
    pub principals: Vec<(PrincipalKind, String)>,
    /// Permission sets, by name or ARN.
    pub permission_sets: Vec<String>,
    /// Accounts, as in a file.
    pub accounts: Vec<String>,
}

/// An assignment with its names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// By ids.
    #[serde(flatten)]
    pub assignment: Assignment,
    /// What people call the principal.
    pub principal: Option<String>,
    /// What people call the permission set.
    pub permission_set_name: Option<String>,
    /// What people call the account.
    pub account_name: Option<String>,
}

/// Lists assignments, sorted.
///
/// # Errors
/// `NotFound` for a name that means nothing, and what AWS says.
pub fn list(directory: &Directory<'_>, access: &Access<'_>, wanted: &Wanted) -> Result<Vec<Listed>> {
    let mut sets = Vec::new();
    for text in &wanted.permission_sets {
        sets.push(directory.permission_set(text)?.id);
    }
    let mut accounts = BTreeSet::new();
    for text in &wanted.accounts {
        accounts.extend(directory.accounts_of(text)?.into_iter().map(|account| account.id));
    }
    let mut found = BTreeSet::new();
    if wanted.principals.is_empty() {
        let all = directory.permission_sets()?.into_iter().map(|set| set.id);
        for set in all.filter(|set| sets.is_empty() || sets.contains(set)) {
            let places = if accounts.is_empty() { access.accounts_with(&set)? } else { accounts.clone() };
            for account in places {
                found.append(&mut access.holders_of(&set, &account)?);
            }
        }
    } else {
        for (kind, text) in &wanted.principals {
            found.append(&mut access.of_principal(*kind, &directory.principal(*kind, text)?.id)?);
        }
        found.retain(|one| {
            (sets.is_empty() || sets.contains(&one.permission_set))
                && (accounts.is_empty() || accounts.contains(&one.account))
        });
    }
    with_names(directory, found)
}

fn with_names(directory: &Directory<'_>, found: BTreeSet<Assignment>) -> Result<Vec<Listed>> {
    let by_id = |named: Vec<Named>| -> BTreeMap<String, Option<String>> {
        named.into_iter().map(|one| (one.id, one.name)).collect()
    };
    let sets = by_id(directory.permission_sets()?);
    let accounts = by_id(directory.accounts()?.unwrap_or_default());
    let mut listed = Vec::new();
    for assignment in found {
        // A principal that was deleted leaves its assignments behind, without a name.
        let principal = match directory.principal(assignment.principal_type, &assignment.principal_id) {
            Ok(named) => named.name,
            Err(error) if error.kind() == weir_base::Kind::NotFound => None,
            Err(error) => return Err(error),
        };
        let permission_set_name = sets.get(&assignment.permission_set).cloned().flatten();
        let account_name = accounts.get(&assignment.account).cloned().flatten();
        listed.push(Listed { assignment, principal, permission_set_name, account_name });
    }
    Ok(listed)
}

/// The wishes that give `to` what `from` has directly.
///
/// # Errors
/// As [`list`].
pub fn copy(
    directory: &Directory<'_>,
    access: &Access<'_>,
    from: (PrincipalKind, &str),
    to: (PrincipalKind, &str),
) -> Result<Vec<Entry>> {
    let wanted = Wanted { principals: vec![(from.0, from.1.to_owned())], ..Wanted::default() };
    let target = directory.principal(to.0, to.1)?;
    let entry = |one: Listed| {
        let assignment = Assignment { principal_type: to.0, principal_id: target.id.clone(), ..one.assignment };
        let names = Names {
            principal: target.name.clone(),
            permission_set: one.permission_set_name,
            account: one.account_name,
        };
        assignment.entry(&names, true)
    };
    Ok(list(directory, access, &wanted)?.into_iter().map(entry).collect())
}

impl Access<'_> {
    /// Accounts in which a permission set is provisioned.
    fn accounts_with(&self, set: &str) -> Result<BTreeSet<String>> {
        let (client, mut found, mut token) = (self.client, BTreeSet::new(), None::<String>);
        loop {
            let page = client.read(|| {
                let ask = client.sso.list_accounts_for_provisioned_permission_set().instance_arn(&self.instance);
                ask.permission_set_arn(set).set_next_token(token.clone()).send()
            })?;
            found.extend(page.account_ids().iter().cloned());
            token = page.next_token().filter(|token| !token.is_empty()).map(str::to_owned);
            if token.is_none() {
                return Ok(found);
            }
        }
    }

    fn holders_of(&self, set: &str, account: &str) -> Result<BTreeSet<Assignment>> {
        Ok(self.holders(set, account)?)
    }
}
