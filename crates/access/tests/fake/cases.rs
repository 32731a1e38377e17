//! What can go wrong with AWS, and that it always ends as planned or says why not.

use std::path::Path;
use std::time::Duration;

use weir_access::assignment::Names;
use weir_access::{Access, Assignment, Client, PrincipalKind, Settings, permission_set};
use weir_ops::{Entry, Env, History, Operation, Options, Plan, RunOptions, State, Step, UndoOptions, apply, resume};

use crate::center::{Center, SET, Trick};

fn client(center: &Center, settings: Settings) -> Client {
    let settings = Settings {
        endpoint_url: Some(center.url.clone()),
        region: Some("eu-west-1".to_owned()),
        credentials: Some(("test".to_owned(), "test".to_owned())),
        ask_pause: Duration::from_millis(150),
        ..settings
    };
    Client::connect(settings, std::sync::Arc::new(weir_base::SystemClock::default())).unwrap()
}

fn history(dir: &Path) -> History {
    History::open(Env::system(), dir, "test", Options::default()).unwrap().0
}

/// Fast enough for tests that are not about the rate.
fn fast() -> Settings {
    Settings { requests_per_second: 500, call_deadline: Duration::from_millis(900), ..Settings::default() }
}

fn wishes(count: usize) -> Vec<Entry> {
    (0..count)
        .map(|n| {
            let assignment = Assignment {
                principal_type: PrincipalKind::User,
                principal_id: format!("user-{}", n % 4),
                permission_set: SET.to_owned(),
                account: format!("{:012}", n / 4),
            };
            assignment.entry(&Names::default(), true)
        })
        .collect()
}

fn options() -> RunOptions<'static> {
    let retry = weir_limits::Retry { pause_max: Duration::from_millis(400), ..RunOptions::default().retry };
    RunOptions { concurrency: 16, call_deadline: Duration::from_millis(900), retry, ..RunOptions::default() }
}

fn run(center: &Center, count: usize) -> Operation {
    let dir = tempfile::tempdir().unwrap();
    let (history, client) = (history(dir.path()), client(center, fast()));
    let access = Access::new(&client).unwrap();
    let plan = Plan::make(&history, &access, "tester", "assign", wishes(count)).unwrap();
    apply(&history, &access, &plan, &options()).unwrap()
}

#[test]
fn at_the_default_rate_the_limits_of_aws_are_kept() {
    let center = Center::start();
    // No call is late here, however busy the machine is.
    let options = RunOptions { call_deadline: Duration::from_secs(30), ..options() };
    let settings = Settings { call_deadline: Duration::from_secs(30), ..Settings::default() };
    let dir = tempfile::tempdir().unwrap();
    let (history, client) = (history(dir.path()), client(&center, settings));
    let access = Access::new(&client).unwrap();
    let plan = Plan::make(&history, &access, "tester", "assign", wishes(48)).unwrap();
    let operation = apply(&history, &access, &plan, &options).unwrap();
    assert_eq!((operation.state, operation.verified), (State::Done, true));
    assert_eq!(center.assignments().len(), 48);
    center.check_limits();
    let undo = Plan::undo(&history, &access, "tester", &[operation.id], &UndoOptions::default()).unwrap();
    assert_eq!(apply(&history, &access, &undo, &options).unwrap().state, State::Done);
    assert!(center.assignments().is_empty());
    center.check_limits();
}

#[test]
fn conflicts_throttling_and_errors_of_the_server_are_waited_out() {
    let center = Center::start();
    let create = [
        Trick::Error(400, "ConflictException"),
        Trick::Error(400, "ThrottlingException"),
        Trick::Error(500, "InternalServerException"),
        Trick::Error(503, "ServiceUnavailable"),
        Trick::Twice,
        Trick::Error(400, "ConflictException"),
    ];
    center.trick("CreateAccountAssignment", &create);
    center.trick(
        "DescribeAccountAssignmentCreationStatus",
        &[Trick::Error(400, "ThrottlingException"), Trick::DropBefore],
    );
    center.trick("ListAccountAssignments", &[Trick::Error(429, "TooManyRequestsException"), Trick::DropBefore]);
    let operation = run(&center, 12);
    assert_eq!((operation.state, operation.verified), (State::Done, true), "{operation:?}");
    assert_eq!(center.assignments().len(), 12);
    assert_eq!(center.state.lock().unwrap().doubled, 0);
}

#[test]
fn a_lost_answer_is_asked_about_and_nothing_is_created_twice() {
    let center = Center::start();
    let hang = Trick::Hang(Duration::from_millis(1500));
    center
        .trick("CreateAccountAssignment", &[Trick::DropAfter, hang.clone(), Trick::DropBefore, Trick::DropAfter, hang]);
    let operation = run(&center, 12);
    assert_eq!((operation.state, operation.verified), (State::Done, true), "{operation:?}");
    let state = center.state.lock().unwrap();
    assert_eq!((state.doubled, state.effects.len(), state.assignments.len()), (0, 12, 12), "R2");
}

/// What is in flight is told by its state then.
#[test]
fn a_lost_answer_is_settled_where_requests_cannot_be_listed() {
    let center = Center::start_with(Duration::ZERO);
    center.trick("CreateAccountAssignment", &[Trick::DropAfter, Trick::DropBefore]);
    center.trick("ListAccountAssignmentCreationStatus", &vec![Trick::Error(500, "NotImplemented"); 100]);
    let operation = run(&center, 6);
    assert_eq!((operation.state, operation.verified), (State::Done, true), "{operation:?}");
    let state = center.state.lock().unwrap();
    assert_eq!((state.doubled, state.effects.len(), state.assignments.len()), (0, 6, 6), "R2");
}

#[test]
fn what_was_accepted_and_failed_later_is_no_success() {
    let center = Center::start();
    let tricks =
        [Trick::FailsLater("Received a 404 status error: no such account"), Trick::FailsLater("Internal failure")];
    center.trick("CreateAccountAssignment", &tricks);
    let operation = run(&center, 8);
    assert_eq!((operation.state, operation.count(Step::Done), operation.count(Step::Failed)), (State::Partial, 7, 1));
    let failed = operation.progress.iter().find(|progress| progress.step == Step::Failed).unwrap();
    assert_eq!(failed.reason.as_deref(), Some("Received a 404 status error: no such account"));
    assert_eq!(center.assignments().len(), 7);
}

#[test]
fn access_denied_stops_the_run_which_can_be_resumed() {
    let center = Center::start();
    center.trick("CreateAccountAssignment", &[Trick::Error(400, "AccessDeniedException")]);
    let dir = tempfile::tempdir().unwrap();
    let (history, client) = (history(dir.path()), client(&center, fast()));
    let access = Access::new(&client).unwrap();
    let plan = Plan::make(&history, &access, "tester", "assign", wishes(24)).unwrap();
    let operation = apply(&history, &access, &plan, &RunOptions { concurrency: 1, ..options() }).unwrap();
    assert_eq!((operation.state, operation.count(Step::Planned)), (State::Failed, 23));
    assert_eq!(center.state.lock().unwrap().counts["CreateAccountAssignment"], 1, "at once");
    let resumed = resume(&history, &access, operation.id, &options()).unwrap();
    assert_eq!((resumed.state, center.assignments().len()), (State::Done, 24));
}

#[test]
fn a_permission_set_is_cloned_with_policies_and_boundary_and_the_clone_undone() {
    let center = Center::start();
    {
        let mut state = center.state.lock().unwrap();
        let set = state.sets.get_mut(SET).unwrap();
        set["managed"] = serde_json::json!(["arn:aws:iam::aws:policy/ReadOnlyAccess", "arn:aws:iam::aws:policy/X"]);
        set["inline"] = serde_json::json!("{\"Version\":\"2012-10-17\"}");
        set["customer"] = serde_json::json!([{"Name": "local", "Path": "/a/"}]);
        set["boundary"] = serde_json::json!({"ManagedPolicyArn": "arn:aws:iam::aws:policy/PowerUserAccess"});
        set["Tags"] = serde_json::json!([{"Key": "team", "Value": "ops"}]);
    }
    // The connection is lost in the middle of making it.
    center.trick("PutInlinePolicyToPermissionSet", &[Trick::DropBefore]);
    let dir = tempfile::tempdir().unwrap();
    let (history, client) = (history(dir.path()), client(&center, fast()));
    let access = Access::new(&client).unwrap();
    let content = access.content(SET).unwrap();
    assert!(content.boundary.is_some() && content.managed_policies.len() == 2 && content.inline_policy.is_some());
    let wishes = vec![permission_set::entry("Copy", &content).unwrap()];
    let plan = Plan::make(&history, &access, "tester", "clone", wishes).unwrap();
    let operation =
        apply(&history, &access, &plan, &RunOptions { call_deadline: Duration::from_secs(9), ..options() }).unwrap();
    assert_eq!((operation.state, operation.verified), (State::Done, true), "{operation:?}");
    assert_eq!(center.state.lock().unwrap().counts["CreatePermissionSet"], 1, "what was there already is kept");
    let undo = Plan::undo(&history, &access, "tester", &[operation.id], &UndoOptions::default()).unwrap();
    apply(&history, &access, &undo, &options()).unwrap();
    assert_eq!(center.state.lock().unwrap().sets.len(), 1);
}
