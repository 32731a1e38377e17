//! Names and ids: principals of the identity store, permission sets, accounts of the organization. Every page is read.
//!
//! A directory reads what it is asked for once and keeps it: one directory serves one command.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aws_sdk_identitystore::types::{AlternateIdentifier, UniqueAttribute};
use aws_smithy_types::Document;
use weir_base::Kind;
use weir_ops::{Class, Failure};

use crate::assignment::PrincipalKind;
use crate::client::Client;
use crate::{Error, Result};

/// A name and the id that it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Id, ARN or account number.
    pub id: String,
    /// What people call it; absent where that cannot be read.
    pub name: Option<String>,
}

/// What names stand for, as read so far.
#[derive(Debug)]
pub struct Directory<'a> {
    client: &'a Client,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    principals: BTreeMap<(PrincipalKind, String), Named>,
    /// ARN and name.
    permission_sets: Option<Vec<Named>>,
    /// `Some(None)`: there is no organization to be read.
    accounts: Option<Option<Vec<Named>>>,
}

impl<'a> Directory<'a> {
    /// A directory that has read nothing yet.
    pub fn new(client: &'a Client) -> Self {
        Self { client, known: Mutex::default() }
    }

    /// The client that it asks.
    pub fn client(&self) -> &'a Client {
        self.client
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A user or group by id or name.
    ///
    /// # Errors
    /// `NotFound`, and what the identity store says.
    pub fn principal(&self, kind: PrincipalKind, text: &str) -> Result<Named> {
        let place = (kind, text.to_owned());
        if let Some(known) = self.lock().principals.get(&place) {
            return Ok(known.clone());
        }
        let found = if is_principal_id(text) {
            match self.describe_principal(kind, text) {
                Err(error) if error.kind() == Kind::NotFound => self.find_principal(kind, text)?,
                other => other?,
            }
        } else {
            self.find_principal(kind, text)?
        };
        self.lock().principals.insert(place, found.clone());
        Ok(found)
    }

    fn describe_principal(&self, kind: PrincipalKind, id: &str) -> Result<Named> {
        let (client, store) = (self.client, &self.client.instance()?.store);
        let name = match kind {
            PrincipalKind::User => {
                let ask = || client.identities.describe_user().identity_store_id(store).user_id(id).send();
                client.read(ask)?.user_name
            }
            PrincipalKind::Group => {
                let ask = || client.identities.describe_group().identity_store_id(store).group_id(id).send();
                client.read(ask)?.display_name
            }
        };
        Ok(Named { id: id.to_owned(), name })
    }

    fn find_principal(&self, kind: PrincipalKind, name: &str) -> Result<Named> {
        let (client, store) = (self.client, &self.client.instance()?.store);
        let path = match kind {
            PrincipalKind::User => "userName",
            PrincipalKind::Group => "displayName",
        };
        let attribute = UniqueAttribute::builder()
            .attribute_path(path)
            .attribute_value(Document::String(name.to_owned()))
            .build()
            .map_err(|error| Error::wrap(Kind::Internal, "cannot ask for a principal", error))?;
        let identifier = AlternateIdentifier::UniqueAttribute(attribute);
        let found = match kind {
            PrincipalKind::User => client
                .read(|| {
                    let ask = client.identities.get_user_id().identity_store_id(store);
                    ask.alternate_identifier(identifier.clone()).send()
                })
                .map(|answer| answer.user_id),
            PrincipalKind::Group => client
                .read(|| {
                    let ask = client.identities.get_group_id().identity_store_id(store);
                    ask.alternate_identifier(identifier.clone()).send()
                })
                .map(|answer| answer.group_id),
        };
        match found {
            Ok(id) => Ok(Named { id, name: Some(name.to_owned()) }),
            Err(failure) if failure.class == Class::Skip => Err(unknown(&format!("{kind} '{name}'"), failure)),
            Err(failure) => Err(failure.into()),
        }
    }

    /// All permission sets, by ARN and name.
    ///
    /// # Errors
    /// What the identity center says.
    pub fn permission_sets(&self) -> Result<Vec<Named>> {
        if let Some(known) = &self.lock().permission_sets {
            return Ok(known.clone());
        }
        let found = self.client.permission_sets()?;
        self.lock().permission_sets = Some(found.clone());
        Ok(found)
    }

    /// A permission set by ARN or name.
    ///
    /// # Errors
    /// `NotFound`, and what the identity center says.
    pub fn permission_set(&self, text: &str) -> Result<Named> {
        let sets = self.permission_sets()?;
        let found = sets.into_iter().find(|set| set.id == text || set.name.as_deref() == Some(text));
        found.ok_or_else(|| Error::new(Kind::NotFound, format!("no permission set '{text}'")))
    }

    /// All accounts of the organization; `None` where there is none, or it may not be read.
    ///
    /// # Errors
    /// What the organization says.
    pub fn accounts(&self) -> Result<Option<Vec<Named>>> {
        if let Some(known) = &self.lock().accounts {
            return Ok(known.clone());
        }
        let found = self.read_accounts()?;
        self.lock().accounts = Some(found.clone());
        Ok(found)
    }

    fn read_accounts(&self) -> Result<Option<Vec<Named>>> {
        let client = self.client;
        let mut found = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let page = client.read(|| client.organizations.list_accounts().set_next_token(token.clone()).send());
            let page = match page {
                Ok(page) => page,
                Err(failure) if is_without_organization(&failure) => return Ok(None),
                Err(failure) => return Err(failure.into()),
            };
            for account in page.accounts() {
                if let Some(id) = account.id() {
                    found.push(Named { id: id.to_owned(), name: account.name().map(str::to_owned) });
                }
            }
            token = page.next_token().filter(|token| !token.is_empty()).map(str::to_owned);
            if token.is_none() {
                return Ok(Some(found));
            }
        }
    }

    /// The accounts that a text means: an id, a name, `tag:Key=Value`, `ou:ID-or-name` (with all units below), or `*`.
    ///
    /// # Errors
    /// `NotFound` when it means none, and what the organization says.
    pub fn accounts_of(&self, text: &str) -> Result<Vec<Named>> {
        let accounts = self.accounts()?;
        let unread = || Error::new(Kind::NotFound, format!("'{text}' needs an organization that may be read"));
        let found: Vec<Named> = if let Some(tag) = text.strip_prefix("tag:") {
            let (key, value) =
                tag.split_once('=').ok_or_else(|| Error::invalid(format!("'{text}' is not tag:Key=Value")))?;
            self.with_tag(accounts.ok_or_else(unread)?, key, value)?
        } else if let Some(unit) = text.strip_prefix("ou:") {
            let inside = self.below_unit(unit)?;
            accounts.ok_or_else(unread)?.into_iter().filter(|account| inside.contains(&account.id)).collect()
        } else if text == "*" {
            accounts.ok_or_else(unread)?
        } else if is_account_id(text) && accounts.is_none() {
            vec![Named { id: text.to_owned(), name: None }]
        } else {
            let named = accounts.unwrap_or_default().into_iter();
            named.filter(|account| account.id == text || account.name.as_deref() == Some(text)).collect()
        };
        match found.len() {
            0 => Err(Error::new(Kind::NotFound, format!("no account '{text}'"))),
            count if count > 1 && found.iter().all(|account| account.name.as_deref() == Some(text)) => {
                Err(Error::new(Kind::Conflict, format!("{count} accounts are called '{text}': give the id")))
            }
            _ => Ok(found),
        }
    }

    fn with_tag(&self, accounts: Vec<Named>, key: &str, value: &str) -> Result<Vec<Named>> {
        let client = self.client;
        let mut found = Vec::new();
        for account in accounts {
            let mut token: Option<String> = None;
            loop {
                let page = client.read(|| {
                    let ask = client.organizations.list_tags_for_resource().resource_id(&account.id);
                    ask.set_next_token(token.clone()).send()
                })?;
                if page.tags().iter().any(|tag| tag.key() == key && tag.value() == value) {
                    found.push(account);
                    break;
                }
                token = page.next_token().filter(|token| !token.is_empty()).map(str::to_owned);
                if token.is_none() {
                    break;
                }
            }
        }
        Ok(found)
    }

    /// Ids of the accounts in a unit and all units below it.
    fn below_unit(&self, unit: &str) -> Result<BTreeSet<String>> {
        let client = self.client;
        let mut open: Vec<(String, bool)> = Vec::new();
        if unit.starts_with("ou-") || unit.starts_with("r-") {
            open.push((unit.to_owned(), true));
        } else {
            for root in client.read(|| client.organizations.list_roots().send())?.roots() {
                open.extend(root.id().map(|id| (id.to_owned(), false)));
            }
        }
        let (mut accounts, mut matched) = (BTreeSet::new(), false);
        while let Some((parent, inside)) = open.pop() {
            matched |= inside;
            if inside {
                accounts.extend(self.children(&parent)?);
            }
            for (id, name) in self.units(&parent)? {
                open.push((id, inside || name.as_deref() == Some(unit)));
            }
        }
        if matched { Ok(accounts) } else { Err(Error::new(Kind::NotFound, format!("no organizational unit '{unit}'"))) }
    }

    fn units(&self, parent: &str) -> Result<Vec<(String, Option<String>)>> {
        let client = self.client;
        let (mut found, mut token) = (Vec::new(), None::<String>);
        loop {
            let page = client.read(|| {
                let ask = client.organizations.list_organizational_units_for_parent().parent_id(parent);
                ask.set_next_token(token.clone()).send()
            })?;
            for unit in page.organizational_units() {
                found.extend(unit.id().map(|id| (id.to_owned(), unit.name().map(str::to_owned))));
            }
            token = page.next_token().filter(|token| !token.is_empty()).map(str::to_owned);
            if token.is_none() {
                return Ok(found);
            }
        }
    }

    fn children(&self, parent: &str) -> Result<Vec<String>> {
        let client = self.client;
        let (mut found, mut token) = (Vec::new(), None::<String>);
        loop {
            let page = client.read(|| {
                let ask = client.organizations.list_accounts_for_parent().parent_id(parent);
                ask.set_next_token(token.clone()).send()
            })?;
            found.extend(page.accounts().iter().filter_map(|account| account.id().map(str::to_owned)));
            token = page.next_token().filter(|token| !token.is_empty()).map(str::to_owned);
            if token.is_none() {
                return Ok(found);
            }
        }
    }
}

impl Client {
    /// All permission sets, read afresh.
    pub(crate) fn permission_sets(&self) -> Result<Vec<Named>> {
        let instance = &self.instance()?.arn;
        let (mut arns, mut token) = (Vec::new(), None::<String>);
        loop {
            let page = self
                .read(|| self.sso.list_permission_sets().instance_arn(instance).set_next_token(token.clone()).send())?;
            arns.extend(page.permission_sets().iter().cloned());
            token = page.next_token().filter(|token| !token.is_empty()).map(str::to_owned);
            if token.is_none() {
                break;
            }
        }
        let mut found = Vec::new();
        for arn in arns {
            let described = self
                .read(|| self.sso.describe_permission_set().instance_arn(instance).permission_set_arn(&arn).send())?;
            let name = described.permission_set().and_then(|set| set.name()).map(str::to_owned);
            found.push(Named { id: arn, name });
        }
        Ok(found)
    }
}

fn unknown(what: &str, failure: Failure) -> Error {
    Error::wrap(Kind::NotFound, format!("no {what}"), failure)
}

fn is_without_organization(failure: &Failure) -> bool {
    ["AWSOrganizationsNotInUse", "AccessDenied"].iter().any(|code| failure.reason.starts_with(code))
}

fn is_account_id(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A UUID, with ten digits before it in older stores (Identity Store API Reference, `UserId`).
fn is_principal_id(text: &str) -> bool {
    let uuid = text.split_once('-').filter(|(head, _)| head.len() == 10).map_or(text, |(_, uuid)| uuid);
    uuid.len() == 36
        && uuid.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_told_from_names() {
        assert!(is_principal_id("906751fd15-8e5bcd6c-bd7d-455d-8d28-6ba1b3b1ef08"));
        assert!(is_principal_id("8e5bcd6c-bd7d-455d-8d28-6ba1b3b1ef08"));
        for name in ["alice", "8e5bcd6c-bd7d-455d-8d28", "8e5bcd6c-bd7d-455d-8d28-6ba1b3b1ef0g"] {
            assert!(!is_principal_id(name), "{name}");
        }
        assert!(is_account_id("012345678901") && !is_account_id("12345678901") && !is_account_id("12345678901x"));
    }
}
