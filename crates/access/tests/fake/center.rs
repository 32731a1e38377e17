//! An identity center of our own: it is slow, fails, throttles, hangs and drops connections as told, and counts what it is asked.

#![allow(clippy::disallowed_methods, reason = "the fake keeps real time, as AWS does")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub(crate) const INSTANCE: &str = "arn:aws:sso:::instance/ssoins-0123456789abcdef";
pub(crate) const SET: &str = "arn:aws:sso:::permissionSet/ssoins-0123456789abcdef/ps-0123456789abcdef";

/// What happens to a request instead of the usual.
#[derive(Debug, Clone)]
pub(crate) enum Trick {
    /// An error with this status and code.
    Error(u16, &'static str),
    /// The request is accepted and fails later, for this reason.
    FailsLater(&'static str),
    /// It has its effect, and the connection is dropped before the answer.
    DropAfter,
    /// The connection is dropped before anything.
    DropBefore,
    /// It has its effect, and there is no answer for so long.
    Hang(Duration),
    /// The answer is sent twice on the wire.
    Twice,
}

/// A request that is worked on.
#[derive(Debug, Clone)]
struct Request {
    creates: bool,
    assignment: Assignment,
    ready: Instant,
    fails: Option<&'static str>,
    settled: bool,
}

/// Principal, account, permission set.
pub(crate) type Assignment = (String, String, String);

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) assignments: BTreeSet<Assignment>,
    requests: BTreeMap<String, Request>,
    /// By action: what happens to the next requests.
    pub(crate) tricks: BTreeMap<&'static str, VecDeque<Trick>>,
    /// When each request came.
    pub(crate) times: Vec<Instant>,
    /// How often each action was asked.
    pub(crate) counts: BTreeMap<String, u32>,
    /// Effects, in order.
    pub(crate) effects: Vec<(bool, Assignment)>,
    pub(crate) outstanding_most: usize,
    /// Creating the same thing while it is being created.
    pub(crate) doubled: u32,
    /// Content of permission sets: ARN, and what was put in.
    pub(crate) sets: BTreeMap<String, Value>,
}

/// The running fake.
pub(crate) struct Center {
    pub(crate) url: String,
    pub(crate) state: Arc<Mutex<State>>,
}

/// How long a creation takes.
const WORK: Duration = Duration::from_millis(300);

impl Center {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state: Arc<Mutex<State>> = Arc::default();
        state.lock().unwrap().sets.insert(SET.to_owned(), json!({"Name": "Readers", "SessionDuration": "PT2H"}));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        Self { url, state }
    }

    pub(crate) fn trick(&self, action: &'static str, tricks: &[Trick]) {
        self.state.lock().unwrap().tricks.entry(action).or_default().extend(tricks.iter().cloned());
    }

    pub(crate) fn assignments(&self) -> BTreeSet<Assignment> {
        let mut state = self.state.lock().unwrap();
        state.work();
        state.assignments.clone()
    }

    /// The limits of AWS were kept: at most 10 creations at once, at most 20 requests in any second, and nothing twice.
    pub(crate) fn check_limits(&self) {
        let state = self.state.lock().unwrap();
        assert!(state.outstanding_most <= 10, "S1: {} creations were outstanding", state.outstanding_most);
        for (at, from) in state.times.iter().enumerate() {
            let window =
                state.times[at..].iter().take_while(|time| time.duration_since(*from) < Duration::from_secs(1));
            let count = window.count();
            assert!(count <= 20, "S1: {count} requests in a second");
        }
        assert_eq!(state.doubled, 0, "nothing is created twice");
    }
}

impl State {
    /// Lets requests that are due take their effect.
    fn work(&mut self) {
        let now = Instant::now();
        for request in self.requests.values_mut().filter(|request| !request.settled && request.ready <= now) {
            request.settled = true;
            if request.fails.is_some() {
                continue;
            }
            self.effects.push((request.creates, request.assignment.clone()));
            if request.creates {
                self.assignments.insert(request.assignment.clone());
            } else {
                self.assignments.remove(&request.assignment);
            }
        }
    }

    fn begin(&mut self, creates: bool, assignment: Assignment, fails: Option<&'static str>) -> Value {
        let same = |request: &&Request| !request.settled && request.assignment == assignment;
        if self.requests.values().find(same).is_some() {
            self.doubled += 1;
        }
        let id = format!("{:08x}-0000-4000-8000-000000000000", self.requests.len());
        let request = Request { creates, assignment, ready: Instant::now() + WORK, fails, settled: false };
        self.requests.insert(id.clone(), request);
        let outstanding = self.requests.values().filter(|request| !request.settled).count();
        self.outstanding_most = self.outstanding_most.max(outstanding);
        self.status(&id).unwrap()
    }

    fn status(&self, id: &str) -> Option<Value> {
        let request = self.requests.get(id)?;
        let (principal, account, set) = &request.assignment;
        let status = match (request.settled, request.fails) {
            (false, _) => "IN_PROGRESS",
            (true, None) => "SUCCEEDED",
            (true, Some(_)) => "FAILED",
        };
        Some(json!({
            "RequestId": id, "Status": status, "FailureReason": request.fails, "TargetId": account,
            "TargetType": "AWS_ACCOUNT", "PermissionSetArn": set, "PrincipalType": "USER", "PrincipalId": principal,
        }))
    }

    fn in_progress(&self, creates: bool) -> Vec<Value> {
        let open = self.requests.iter().filter(|(_, request)| request.creates == creates && !request.settled);
        open.map(|(id, _)| json!({"RequestId": id, "Status": "IN_PROGRESS"})).collect()
    }

    /// Answers an action; the second value is the status.
    fn answer(&mut self, action: &str, body: &Value, fails: Option<&'static str>) -> (Value, u16) {
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        let assignment = || (text("PrincipalId"), text("TargetId"), text("PermissionSetArn"));
        let not_found = || (json!({"__type": "ResourceNotFoundException", "message": "no such thing"}), 400);
        let page = |name: &str, all: Vec<Value>| {
            // Short pages, the first one empty: a token alone says whether there is more.
            let at: usize = text("NextToken").parse().unwrap_or(0);
            let rows: Vec<Value> =
                all.iter().skip(at.saturating_sub(1)).take(if at == 0 { 0 } else { 2 }).cloned().collect();
            let next = if at == 0 { 1 } else { at + 2 };
            let more = next <= all.len();
            (json!({name: rows, "NextToken": more.then(|| next.to_string())}), 200)
        };
        match action {
            "ListInstances" => {
                (json!({"Instances": [{"InstanceArn": INSTANCE, "IdentityStoreId": "d-0123456789"}]}), 200)
            }
            "CreateAccountAssignment" => {
                (json!({"AccountAssignmentCreationStatus": self.begin(true, assignment(), fails)}), 200)
            }
            "DeleteAccountAssignment" => {
                (json!({"AccountAssignmentDeletionStatus": self.begin(false, assignment(), fails)}), 200)
            }
            "DescribeAccountAssignmentCreationStatus" => {
                match self.status(&text("AccountAssignmentCreationRequestId")) {
                    Some(status) => (json!({"AccountAssignmentCreationStatus": status}), 200),
                    None => not_found(),
                }
            }
            "DescribeAccountAssignmentDeletionStatus" => {
                match self.status(&text("AccountAssignmentDeletionRequestId")) {
                    Some(status) => (json!({"AccountAssignmentDeletionStatus": status}), 200),
                    None => not_found(),
                }
            }
            "ListAccountAssignmentCreationStatus" => page("AccountAssignmentsCreationStatus", self.in_progress(true)),
            "ListAccountAssignmentDeletionStatus" => page("AccountAssignmentsDeletionStatus", self.in_progress(false)),
            "ListAccountAssignments" => {
                let (account, set) = (text("AccountId"), text("PermissionSetArn"));
                let here = self.assignments.iter().filter(|(_, a, s)| *a == account && *s == set);
                let rows = here.map(|(principal, ..)| {
                    json!({"AccountId": account, "PermissionSetArn": set, "PrincipalType": "USER", "PrincipalId": principal})
                });
                page("AccountAssignments", rows.collect())
            }
            "ListAccountAssignmentsForPrincipal" => {
                let principal = text("PrincipalId");
                let here = self.assignments.iter().filter(|(p, ..)| *p == principal);
                let rows = here.map(|(_, account, set)| {
                    json!({"AccountId": account, "PermissionSetArn": set, "PrincipalType": "USER", "PrincipalId": principal})
                });
                page("AccountAssignments", rows.collect())
            }
            _ => self.answer_set(action, body),
        }
    }

    /// Actions on permission sets.
    fn answer_set(&mut self, action: &str, body: &Value) -> (Value, u16) {
        let arn = body["PermissionSetArn"].as_str().or(body["ResourceArn"].as_str()).unwrap_or_default().to_owned();
        if action == "ListPermissionSets" {
            return (json!({"PermissionSets": self.sets.keys().collect::<Vec<_>>()}), 200);
        }
        if action == "CreatePermissionSet" {
            let arn = format!("{}{}", &SET[..SET.len() - 2], self.sets.len() + 10);
            let mut set = body.clone();
            set["PermissionSetArn"] = json!(arn);
            self.sets.insert(arn, set.clone());
            return (json!({"PermissionSet": set}), 200);
        }
        let not_found = (json!({"__type": "ResourceNotFoundException", "message": "no such set"}), 400);
        if action == "DeletePermissionSet" {
            return if self.sets.remove(&arn).is_some() { (json!({}), 200) } else { not_found };
        }
        let Some(set) = self.sets.get_mut(&arn) else { return not_found };
        match action {
            "DescribePermissionSet" => (json!({"PermissionSet": set}), 200),
            "ListManagedPoliciesInPermissionSet" => {
                let policies = set["managed"].as_array().cloned().unwrap_or_default();
                let policies: Vec<Value> = policies.iter().map(|arn| json!({"Arn": arn, "Name": "x"})).collect();
                (json!({"AttachedManagedPolicies": policies}), 200)
            }
            "ListCustomerManagedPolicyReferencesInPermissionSet" => (
                json!({"CustomerManagedPolicyReferences": set["customer"].as_array().cloned().unwrap_or_default()}),
                200,
            ),
            "GetInlinePolicyForPermissionSet" => (json!({"InlinePolicy": set["inline"].as_str().unwrap_or("")}), 200),
            "GetPermissionsBoundaryForPermissionSet" if set["boundary"].is_null() => not_found,
            "GetPermissionsBoundaryForPermissionSet" => (json!({"PermissionsBoundary": set["boundary"]}), 200),
            "ListTagsForResource" => (json!({"Tags": set["Tags"].as_array().cloned().unwrap_or_default()}), 200),
            "AttachManagedPolicyToPermissionSet" => {
                let mut policies = set["managed"].as_array().cloned().unwrap_or_default();
                policies.push(body["ManagedPolicyArn"].clone());
                set["managed"] = json!(policies);
                (json!({}), 200)
            }
            "AttachCustomerManagedPolicyReferenceToPermissionSet" => {
                set["customer"] = json!([body["CustomerManagedPolicyReference"]]);
                (json!({}), 200)
            }
            "PutInlinePolicyToPermissionSet" => {
                set["inline"] = body["InlinePolicy"].clone();
                (json!({}), 200)
            }
            "PutPermissionsBoundaryToPermissionSet" => {
                set["boundary"] = body["PermissionsBoundary"].clone();
                (json!({}), 200)
            }
            other => panic!("the fake does not know {other}"),
        }
    }
}

/// One connection: requests until it is closed.
fn serve(stream: TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    while let Some((action, body)) = read_request(&mut reader) {
        let trick = {
            let mut state = state.lock().unwrap();
            state.times.push(Instant::now());
            *state.counts.entry(action.clone()).or_default() += 1;
            state.work();
            let next = state.tricks.get_mut(action.as_str()).and_then(VecDeque::pop_front);
            next
        };
        if matches!(trick, Some(Trick::DropBefore)) {
            return;
        }
        let (answer, status) = match trick {
            Some(Trick::Error(status, code)) => (json!({"__type": code, "message": "told to"}), status),
            Some(Trick::FailsLater(reason)) => state.lock().unwrap().answer(&action, &body, Some(reason)),
            _ => state.lock().unwrap().answer(&action, &body, None),
        };
        match trick {
            Some(Trick::DropAfter) => return,
            Some(Trick::Hang(time)) => std::thread::sleep(time),
            _ => {}
        }
        let text = answer.to_string();
        let head = format!(
            "HTTP/1.1 {status} X\r\ncontent-type: application/x-amz-json-1.1\r\nx-amzn-requestid: r\r\ncontent-length: {}\r\n\r\n",
            text.len()
        );
        let times = if matches!(trick, Some(Trick::Twice)) { 2 } else { 1 };
        if stream.write_all(format!("{head}{text}").repeat(times).as_bytes()).is_err() {
            return;
        }
    }
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<(String, Value)> {
    let (mut action, mut length) = (String::new(), 0);
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let text = line.trim();
        if text.is_empty() {
            break;
        }
        if let Some((name, value)) = text.split_once(':') {
            match name.to_ascii_lowercase().as_str() {
                "x-amz-target" => action = value.rsplit_once('.')?.1.to_owned(),
                "content-length" => length = value.trim().parse().ok()?,
                _ => {}
            }
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((action, serde_json::from_slice(&body).ok()?))
}
