//! Permission sets as states: the whole content as one document, so that a clone can be planned, verified and undone.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_ssoadmin::types::{CustomerManagedPolicyReference, PermissionsBoundary, Tag};
use serde::{Deserialize, Serialize};
use weir_base::Kind;
use weir_limits::Deadline;
use weir_ops::{Class, Entry, Failure, Started, Value};

use crate::directory::Named;
use crate::target::Access;
use crate::{Error, Result};

const PREFIX: &str = "permission-set/";

/// The key of a permission set's entry.
pub fn key(name: &str) -> String {
    format!("{PREFIX}{name}")
}

/// The name in a key.
pub(crate) fn name_of(key: &str) -> Option<&str> {
    key.strip_prefix(PREFIX)
}

/// Everything that makes up a permission set.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Content {
    /// In words.
    pub description: Option<String>,
    /// ISO 8601, such as `PT8H`.
    pub session_duration: Option<String>,
    /// Where users go after signing in.
    pub relay_state: Option<String>,
    /// ARNs of policies that AWS manages.
    pub managed_policies: BTreeSet<String>,
    /// Path and name of policies in each account.
    pub customer_policies: BTreeSet<(String, String)>,
    /// Policy document, as text.
    pub inline_policy: Option<String>,
    /// The boundary.
    pub boundary: Option<Boundary>,
    /// Tags.
    pub tags: BTreeMap<String, String>,
}

/// A permissions boundary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Boundary {
    /// ARN of a policy that AWS manages.
    Managed(String),
    /// Path and name of a policy in each account.
    Customer(String, String),
}

/// The entry that makes `name` a copy of `content`.
///
/// # Errors
/// `Internal` when it cannot be expressed in JSON.
pub fn entry(name: &str, content: &Content) -> Result<Entry> {
    let state = serde_json::to_value(content)
        .map_err(|error| Error::wrap(Kind::Internal, "cannot encode a permission set", error))?;
    let mut entry = Entry::new(key(name), None, Some(state));
    entry.labels.insert("permission_set".to_owned(), name.to_owned());
    Ok(entry)
}

/// Whether `state` is what making or unmaking can leave: every part is that of `from`, that of `to`, or a piece of them.
pub(crate) fn is_between(from: &Value, to: &Value, state: &Value) -> bool {
    let parse = |value: &Value| {
        value.clone().map_or_else(|| Some(Content::default()), |value| serde_json::from_value::<Content>(value).ok())
    };
    let (Some(from), Some(to), Some(state)) = (parse(from), parse(to), parse(state)) else { return false };
    let one_of = |a: &Option<String>, b: &Option<String>, now: &Option<String>| now.is_none() || now == a || now == b;
    one_of(&from.description, &to.description, &state.description)
        && one_of(&from.inline_policy, &to.inline_policy, &state.inline_policy)
        && (state.boundary.is_none() || state.boundary == from.boundary || state.boundary == to.boundary)
        && state
            .managed_policies
            .iter()
            .all(|arn| from.managed_policies.contains(arn) || to.managed_policies.contains(arn))
        && state
            .customer_policies
            .iter()
            .all(|policy| from.customer_policies.contains(policy) || to.customer_policies.contains(policy))
}

impl Access<'_> {
    /// The content of a permission set.
    ///
    /// # Errors
    /// What the identity center says.
    pub fn content(&self, arn: &str) -> Result<Content, Failure> {
        let (client, sso, instance) = (self.client, &self.client.sso, &self.instance);
        let described =
            client.read(|| sso.describe_permission_set().instance_arn(instance).permission_set_arn(arn).send())?;
        let set = described.permission_set();
        let text = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(str::to_owned);
        let mut content = Content {
            description: set.and_then(|set| text(set.description())),
            session_duration: set.and_then(|set| text(set.session_duration())),
            relay_state: set.and_then(|set| text(set.relay_state())),
            ..Content::default()
        };
        content.managed_policies = self.managed_policies(arn)?;
        content.customer_policies = self.customer_policies(arn)?;
        let inline = client.read(|| {
            sso.get_inline_policy_for_permission_set().instance_arn(instance).permission_set_arn(arn).send()
        })?;
        content.inline_policy = text(inline.inline_policy());
        content.boundary = self.boundary(arn)?;
        content.tags = self.tags(arn)?;
        Ok(content)
    }

    fn managed_policies(&self, arn: &str) -> Result<BTreeSet<String>, Failure> {
        let (sso, mut found, mut token) = (&self.client.sso, BTreeSet::new(), None::<String>);
        loop {
            let page = self.client.read(|| {
                let ask = sso.list_managed_policies_in_permission_set().instance_arn(&self.instance);
                ask.permission_set_arn(arn).set_next_token(token.clone()).send()
            })?;
            found.extend(page.attached_managed_policies().iter().filter_map(|one| one.arn().map(str::to_owned)));
            token = page.next_token().filter(|token| !token.is_empty()).map(str::to_owned);
            if token.is_none() {
                return Ok(found);
            }
        }
    }

    fn customer_policies(&self, arn: &str) -> Result<BTreeSet<(String, String)>, Failure> {
        let (sso, mut found, mut token) = (&self.client.sso, BTreeSet::new(), None::<String>);
        loop {
            let page = self.client.read(|| {
                let ask = sso.list_customer_managed_policy_references_in_permission_set();
                let ask = ask.instance_arn(&self.instance).permission_set_arn(arn);
                ask.set_next_token(token.clone()).send()
            })?;
            for one in page.customer_managed_policy_references() {
                found.insert((one.path().unwrap_or("/").to_owned(), one.name().to_owned()));
            }
            token = page.next_token().filter(|token| !token.is_empty()).map(str::to_owned);
            if token.is_none() {
                return Ok(found);
            }
        }
    }

    fn boundary(&self, arn: &str) -> Result<Option<Boundary>, Failure> {
        let sso = &self.client.sso;
        let answer = self.client.read(|| {
            let ask = sso.get_permissions_boundary_for_permission_set().instance_arn(&self.instance);
            ask.permission_set_arn(arn).send()
        });
        let answer = match answer {
            Ok(answer) => answer,
            Err(failure) if failure.reason.starts_with("ResourceNotFound") => return Ok(None),
            Err(failure) => return Err(failure),
        };
        let Some(boundary) = answer.permissions_boundary() else { return Ok(None) };
        Ok(match (boundary.managed_policy_arn(), boundary.customer_managed_policy_reference()) {
            (Some(arn), _) => Some(Boundary::Managed(arn.to_owned())),
            (None, Some(one)) => Some(Boundary::Customer(one.path().unwrap_or("/").to_owned(), one.name().to_owned())),
            (None, None) => None,
        })
    }

    fn tags(&self, arn: &str) -> Result<BTreeMap<String, String>, Failure> {
        let (sso, mut found, mut token) = (&self.client.sso, BTreeMap::new(), None::<String>);
        loop {
            let page = self.client.read(|| {
                let ask = sso.list_tags_for_resource().instance_arn(&self.instance).resource_arn(arn);
                ask.set_next_token(token.clone()).send()
            })?;
            found.extend(page.tags().iter().map(|tag| (tag.key().to_owned(), tag.value().to_owned())));
            token = page.next_token().filter(|token| !token.is_empty()).map(str::to_owned);
            if token.is_none() {
                return Ok(found);
            }
        }
    }

    /// The states of permission sets by name.
    pub(crate) fn read_permission_sets(&self, names: &[&str]) -> Result<BTreeMap<String, Value>, Failure> {
        let mut states = BTreeMap::new();
        if names.is_empty() {
            return Ok(states);
        }
        let sets = self.find_sets()?;
        for name in names {
            let found = sets.iter().find(|set| set.name.as_deref() == Some(name));
            let state = match found {
                Some(set) => serde_json::to_value(self.content(&set.id)?).ok(),
                None => None,
            };
            states.insert((*name).to_owned(), state);
        }
        Ok(states)
    }

    fn find_sets(&self) -> Result<Vec<Named>, Failure> {
        self.client.permission_sets().map_err(|error| Failure::new(Class::Retry, weir_base::error::chain(&error)))
    }

    /// Brings a permission set to a state, part by part; each part is only done where it differs, so that it can be done again.
    pub(crate) fn converge(&self, name: &str, to: &Value, deadline: Deadline) -> Result<Started, Failure> {
        let found = self.find_sets()?.into_iter().find(|set| set.name.as_deref() == Some(name));
        let (client, sso, instance) = (self.client, &self.client.sso, &self.instance);
        let done = Ok(Started::Done { request: None });
        let Some(to) = to else {
            let Some(set) = found else { return done };
            let ask = sso.delete_permission_set().instance_arn(instance).permission_set_arn(set.id);
            return client.call(deadline, ask.send()).and(done);
        };
        let to: Content = serde_json::from_value(to.clone())
            .map_err(|error| Failure::new(Class::Skip, format!("the plan's permission set cannot be read: {error}")))?;
        let arn = match found {
            Some(set) => set.id,
            None => self.create_set(name, &to, deadline)?,
        };
        let now = self.content(&arn)?;
        if (&now.description, &now.session_duration, &now.relay_state)
            != (&to.description, &to.session_duration, &to.relay_state)
        {
            let ask = sso.update_permission_set().instance_arn(instance).permission_set_arn(&arn);
            let ask = ask.set_description(to.description.clone()).set_relay_state(to.relay_state.clone());
            client.call(deadline, ask.set_session_duration(to.session_duration.clone()).send())?;
        }
        self.converge_policies(&arn, &now, &to, deadline)?;
        self.converge_documents(&arn, &now, &to, deadline)?;
        done
    }

    fn create_set(&self, name: &str, to: &Content, deadline: Deadline) -> Result<String, Failure> {
        let mut ask = self.client.sso.create_permission_set().instance_arn(&self.instance).name(name);
        ask = ask.set_description(to.description.clone()).set_relay_state(to.relay_state.clone());
        ask = ask.set_session_duration(Some(to.session_duration.clone().unwrap_or_else(|| "PT1H".to_owned())));
        for (key, value) in &to.tags {
            let tag = Tag::builder().key(key).value(value).build();
            ask = ask.tags(tag.map_err(|error| Failure::new(Class::Skip, error.to_string()))?);
        }
        let answer = self.client.call(deadline, ask.send())?;
        let arn = answer.permission_set().and_then(|set| set.permission_set_arn()).map(str::to_owned);
        arn.ok_or_else(|| Failure::new(Class::Retry, "the identity center made a permission set without an ARN"))
    }

    fn converge_policies(&self, arn: &str, now: &Content, to: &Content, deadline: Deadline) -> Result<(), Failure> {
        let (client, sso, instance) = (self.client, &self.client.sso, &self.instance);
        for policy in to.managed_policies.difference(&now.managed_policies) {
            let ask = sso.attach_managed_policy_to_permission_set().instance_arn(instance);
            client.call(deadline, ask.permission_set_arn(arn).managed_policy_arn(policy).send())?;
        }
        for policy in now.managed_policies.difference(&to.managed_policies) {
            let ask = sso.detach_managed_policy_from_permission_set().instance_arn(instance);
            client.call(deadline, ask.permission_set_arn(arn).managed_policy_arn(policy).send())?;
        }
        for (path, name) in to.customer_policies.difference(&now.customer_policies) {
            let ask = sso.attach_customer_managed_policy_reference_to_permission_set().instance_arn(instance);
            let ask = ask.permission_set_arn(arn).customer_managed_policy_reference(reference(path, name)?);
            client.call(deadline, ask.send())?;
        }
        for (path, name) in now.customer_policies.difference(&to.customer_policies) {
            let ask = sso.detach_customer_managed_policy_reference_from_permission_set().instance_arn(instance);
            let ask = ask.permission_set_arn(arn).customer_managed_policy_reference(reference(path, name)?);
            client.call(deadline, ask.send())?;
        }
        Ok(())
    }

    fn converge_documents(&self, arn: &str, now: &Content, to: &Content, deadline: Deadline) -> Result<(), Failure> {
        let (client, sso, instance) = (self.client, &self.client.sso, &self.instance);
        if now.inline_policy != to.inline_policy {
            match &to.inline_policy {
                Some(policy) => {
                    let ask = sso.put_inline_policy_to_permission_set().instance_arn(instance);
                    client.call(deadline, ask.permission_set_arn(arn).inline_policy(policy).send()).map(drop)?;
                }
                None => {
                    let ask = sso.delete_inline_policy_from_permission_set().instance_arn(instance);
                    client.call(deadline, ask.permission_set_arn(arn).send()).map(drop)?;
                }
            }
        }
        if now.boundary != to.boundary {
            let boundary = PermissionsBoundary::builder();
            let boundary = match &to.boundary {
                Some(Boundary::Managed(arn)) => boundary.managed_policy_arn(arn),
                Some(Boundary::Customer(path, name)) => {
                    boundary.customer_managed_policy_reference(reference(path, name)?)
                }
                None => {
                    let ask = sso.delete_permissions_boundary_from_permission_set().instance_arn(instance);
                    return client.call(deadline, ask.permission_set_arn(arn).send()).map(drop);
                }
            };
            let ask = sso.put_permissions_boundary_to_permission_set().instance_arn(instance);
            client.call(deadline, ask.permission_set_arn(arn).permissions_boundary(boundary.build()).send())?;
        }
        Ok(())
    }
}

fn reference(path: &str, name: &str) -> Result<CustomerManagedPolicyReference, Failure> {
    let built = CustomerManagedPolicyReference::builder().path(path).name(name).build();
    built.map_err(|error| Failure::new(Class::Skip, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_break_in_the_middle_leaves_is_between() {
        let to = Content {
            description: Some("d".to_owned()),
            managed_policies: ["a".to_owned(), "b".to_owned()].into(),
            inline_policy: Some("{}".to_owned()),
            boundary: Some(Boundary::Managed("x".to_owned())),
            ..Content::default()
        };
        let value = |content: &Content| serde_json::to_value(content).ok();
        let half = Content { inline_policy: None, managed_policies: ["a".to_owned()].into(), ..to.clone() };
        assert!(is_between(&None, &value(&to), &value(&half)));
        let other = Content { managed_policies: ["c".to_owned()].into(), ..half };
        assert!(!is_between(&None, &value(&to), &value(&other)));
    }
}
