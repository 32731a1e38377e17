//! What only a remote store has: the probe, uploads in parts, and a network that fails.

use std::time::Duration;

use object_store::{PutMode, PutOptions, PutPayload};
use weir_base::Kind;
use weir_sim::{ObjectServer, Protocol, Proxy, ProxyFault};

use super::*;
use crate::store::{Change, RemoteLimits};

everywhere! {
    a_conditional_put_is_taken_once,
    a_listing_of_many_pages_is_whole_and_in_order,
    a_large_file_comes_back,
}

/// What all commits stand on, also with many at once.
async fn a_conditional_put_is_taken_once(place: Place) {
    let store = open(&place).await;
    for round in 0..10 {
        let path = Path::from(format!("once/{round}"));
        let puts = (0..8u8).map(|writer| {
            let (objects, path) = (store.objects(), path.clone());
            tokio::spawn(async move {
                let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
                let put = objects.put_opts(&path, PutPayload::from(vec![writer]), options).await;
                match put {
                    Ok(_) => Some(writer),
                    Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => None,
                    Err(error) => panic!("{error}"),
                }
            })
        });
        let winners: Vec<u8> =
            futures::future::join_all(puts).await.into_iter().filter_map(|put| put.unwrap()).collect();
        assert_eq!(winners.len(), 1, "round {round}");
        let found = store.objects().get(&path).await.unwrap().bytes().await.unwrap();
        assert_eq!(found.as_ref(), winners, "round {round}");
    }
}

async fn a_listing_of_many_pages_is_whole_and_in_order(place: Place) {
    let store = open(&place).await;
    let objects = store.objects();
    // A page of S3 holds 1,000.
    let name = |number: usize| format!("many/{number:05}");
    let puts = (0..1_100).map(|number| {
        let objects = Arc::clone(&objects);
        async move { objects.put(&Path::from(name(number)), PutPayload::from_static(b"x")).await }
    });
    use futures::StreamExt;
    futures::stream::iter(puts).buffer_unordered(16).try_collect::<Vec<_>>().await.unwrap();
    let mut expected: Vec<String> = (0..1_100).map(|number| format!("{number:05}")).collect();
    assert_eq!(listed(&store, "many").await, expected);
    let offset = Path::from(name(1_049));
    let after: Vec<_> = objects.list_with_offset(Some(&Path::from("many")), &offset).try_collect().await.unwrap();
    assert_eq!(after.len(), 50);
    let doomed = expected.drain(..1_090).map(|name| Ok(Path::from(format!("many/{name}")))).collect::<Vec<_>>();
    objects.delete_stream(futures::stream::iter(doomed).boxed()).try_collect::<Vec<_>>().await.unwrap();
    assert_eq!(listed(&store, "many").await, expected);
}

/// Rows with numbers that no encoding makes smaller (splitmix64).
fn noise(rows: i64) -> RecordBatch {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) ^ (z >> 31)) as i64
    };
    let values: Int64Array = (0..rows).map(|_| next()).collect();
    let times = TimestampNanosecondArray::from_iter_values((0..rows).map(|row| row * 1_000));
    let hosts = StringViewArray::from_iter_values((0..rows).map(|_| "a"));
    let columns: Vec<ArrayRef> = vec![Arc::new(times), Arc::new(hosts), Arc::new(values)];
    RecordBatch::try_new(logical_schema(&simple_schema()), columns).unwrap()
}

/// The same rows as they come from a merge.
fn batches_of(batch: &RecordBatch) -> Vec<RecordBatch> {
    const ROWS: usize = 64 << 10;
    (0..batch.num_rows()).step_by(ROWS).map(|at| batch.slice(at, ROWS.min(batch.num_rows() - at))).collect()
}

/// More than two parts of an upload.
async fn a_large_file_comes_back(place: Place) {
    const ROWS: i64 = 6 << 20;
    let store = open(&place).await;
    let table = store.create_table("db", "cpu").await.unwrap();
    let schema = simple_schema();
    let batch = noise(ROWS);
    let values = batch.column_by_name("v").unwrap().as_primitive::<Int64Type>().values().to_vec();
    let file = table.write_file(&schema, batches_of(&batch)).await.unwrap();
    assert!(file.file.size > 40 << 20, "{} bytes are not three parts", file.file.size);
    table.commit(Change::flush(vec![file], None)).await.unwrap();
    let other = open(&place).await.table("db", "cpu").await.unwrap().unwrap();
    let found = batches(&other, &other.snapshot()).await;
    let column = |batch: &RecordBatch| batch.column_by_name("v").unwrap().as_primitive::<Int64Type>().values().to_vec();
    assert!(found.iter().flat_map(column).eq(values), "the values are not those that were written");
}

/// A store that does not know conditional puts takes the second one: exactly what the probe is for.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_store_that_ignores_the_condition_of_a_put_is_refused() {
    let network = Network::new();
    network.proxy.set(ProxyFault::Unconditional);
    let error = Store::open(network.place.location(), &network.place.options(), env()).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (Kind::Invalid, weir_base::Retry::Never), "{error}");
    assert!(error.to_string().contains("accepts a conditional put of an object that exists"), "{error}");
    network.proxy.set(ProxyFault::None);
    network.open(RemoteLimits::default()).await;
}

/// Deadlines short enough for a test, a breaker that never opens unless a test wants it to.
fn impatient() -> RemoteLimits {
    RemoteLimits {
        connect_timeout: Duration::from_secs(5),
        request_timeout: Duration::from_millis(400),
        transfer_timeout: Duration::from_secs(2),
        breaker_failures: 1_000,
        ..RemoteLimits::default()
    }
}

struct Network {
    proxy: Proxy,
    place: Place,
    _server: ObjectServer,
}

impl Network {
    fn new() -> Self {
        let server = ObjectServer::start(Protocol::S3);
        let proxy = Proxy::start(server.address);
        let place = Place::on(&server).through(server.options_through(proxy.address()));
        Self { proxy, place, _server: server }
    }

    async fn open(&self, limits: RemoteLimits) -> Store {
        Store::open(self.place.location(), &StoreOptions { limits, ..self.place.options() }, env()).await.unwrap()
    }
}

/// S2, E1: whatever the network does, a call ends within its deadline, and what it was to do happens once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_fault_of_the_network_ends_in_time_and_leaves_one_commit_e1() {
    let network = Network::new();
    let store = network.open(impatient()).await;
    let table = store.create_table("db", "cpu").await.unwrap();
    let mut expected = Vec::new();
    for (number, fault) in (0..).zip(ProxyFault::ALL) {
        let rows = [("a", number * 1_000, number)];
        let change = Change::flush(vec![simple_file(&table, &rows).await], Some(("w".into(), number)));
        network.proxy.set(fault);
        // The file is there; of the commit, its three attempts and the looks between them each have a deadline.
        let outcome = tokio::time::timeout(Duration::from_secs(60), table.commit(change.clone())).await;
        let outcome = outcome.unwrap_or_else(|_| panic!("{fault:?} has no end"));
        if let Err(error) = outcome {
            assert_eq!((error.kind(), error.retry()), (Kind::Unavailable, weir_base::Retry::Backoff), "{fault:?}");
            assert!(store.remote_stats().unwrap().failing.is_some(), "{fault:?}");
        }
        let stats = store.remote_stats().unwrap();
        assert!(stats.failures > 0 && stats.retries > 0, "{fault:?}: {stats:?}");
        network.proxy.set(ProxyFault::None);
        table.commit(change).await.unwrap();
        assert_eq!(store.remote_stats().unwrap().failing, None, "{fault:?}");
        expected.push(("a".to_owned(), number * 1_000, number));
    }
    let fresh = network.open(RemoteLimits::default()).await.table("db", "cpu").await.unwrap().unwrap();
    let snapshot = fresh.snapshot();
    assert_eq!(snapshot.version, expected.len() as i64 - 1);
    assert_eq!(read_simple(&fresh, &snapshot).await, expected);
}

/// A fault in the middle of an upload in parts; what is read back is whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_upload_in_parts_survives_lost_answers_and_bodies_of_a_wrong_length() {
    let network = Network::new();
    let limits = RemoteLimits {
        request_timeout: Duration::from_secs(20),
        transfer_timeout: Duration::from_secs(60),
        tries: 50,
        ..impatient()
    };
    let store = network.open(limits).await;
    let (path, body) = (Path::from("large"), vec![7_u8; 12 << 20]);
    for fault in [ProxyFault::AnswerLost, ProxyFault::Reset, ProxyFault::SlowDown, ProxyFault::Half] {
        let upload = store.objects().put_multipart(&path).await.unwrap();
        let mut parts = object_store::WriteMultipart::new_with_chunk_size(upload, 5 << 20);
        network.proxy.set(fault);
        parts.write(&body);
        let before = network.proxy.faulted();
        let finish = tokio::spawn(parts.finish());
        while network.proxy.faulted() < before + 6 {
            assert!(!finish.is_finished(), "{fault:?}: it ended under the fault");
            tokio::task::yield_now().await;
        }
        network.proxy.set(ProxyFault::None);
        finish.await.unwrap().unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        let get = tokio::spawn({
            network.proxy.set(ProxyFault::WrongLength);
            let (objects, path) = (store.objects(), path.clone());
            async move { objects.get(&path).await?.bytes().await }
        });
        let before = network.proxy.faulted();
        while network.proxy.faulted() < before + 2 {
            tokio::task::yield_now().await;
        }
        network.proxy.set(ProxyFault::None);
        assert!(get.await.unwrap().unwrap() == body, "{fault:?}: what came back is not what was sent");
        store.objects().delete(&path).await.unwrap();
    }
}

/// What moto has of uploads that are neither completed nor given up.
fn open_uploads(server: &ObjectServer) -> usize {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(b"GET /weir?uploads HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("<ListMultipartUploadsResult"), "{answer}");
    answer.matches("<UploadId>").count()
}

/// S1: a file whose parts fail leaves no parts behind, and a large file has only a few parts on their way at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_upload_that_fails_is_given_up_and_has_few_parts_on_their_way() {
    const ROWS: i64 = 12 << 20;
    let network = Network::new();
    let limits = RemoteLimits {
        request_timeout: Duration::from_secs(60),
        transfer_timeout: Duration::from_secs(60),
        tries: 1,
        ..impatient()
    };
    let store = network.open(limits).await;
    let table = store.create_table("db", "cpu").await.unwrap();
    let before = network.proxy.faulted();
    network.proxy.set_for("partNumber=", ProxyFault::Hang);
    let writing = tokio::spawn(async move { table.write_file(&simple_schema(), batches_of(&noise(ROWS))).await });
    while network.proxy.faulted() < before + 4 {
        assert!(!writing.is_finished(), "it ended while its parts hang");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(open_uploads(&network._server), 1);
    network.proxy.set_for("partNumber=", ProxyFault::Broken);
    let error = writing.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    let asked = network.proxy.faulted() - before;
    assert!(asked <= 8, "{asked} parts were sent, four at once and four while those failed at the most");
    assert_eq!(open_uploads(&network._server), 0, "its parts stay");

    let table = store.table("db", "cpu").await.unwrap().unwrap();
    let before = network.proxy.faulted();
    network.proxy.set_for("partNumber=", ProxyFault::Hang);
    let writing = tokio::spawn(async move { table.write_file(&simple_schema(), batches_of(&noise(ROWS))).await });
    while network.proxy.faulted() < before + 1 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    writing.abort();
    assert!(writing.await.unwrap_err().is_cancelled());
    let given_up = async {
        while open_uploads(&network._server) > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), given_up).await.expect("an upload that nobody waits for is given up");
}

/// S1: the tries of one call and of all calls, and the breaker.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tries_budget_and_breaker_bound_what_a_dead_store_is_asked() {
    let network = Network::new();
    let get = |store: &Store| {
        let objects = store.objects();
        async move { objects.get(&Path::from("nothing")).await.map(drop) }
    };
    let asked = async |limits: RemoteLimits, calls: usize| {
        network.proxy.set(ProxyFault::None);
        let store = network.open(limits).await;
        network.proxy.set(ProxyFault::Broken);
        let before = network.proxy.requests();
        for _ in 0..calls {
            assert!(matches!(get(&store).await, Err(object_store::Error::Generic { .. })));
        }
        (network.proxy.requests() - before, store)
    };
    assert_eq!(asked(RemoteLimits { tries: 3, ..impatient() }, 2).await.0, 6);
    assert_eq!(asked(RemoteLimits { tries: 3, retry_budget: 1, ..impatient() }, 4).await.0, 5, "one retry for all");
    let open_for = Duration::from_millis(500);
    let limits = RemoteLimits { tries: 4, breaker_failures: 2, breaker_open: open_for, ..impatient() };
    let (requests, store) = asked(limits, 5).await;
    assert_eq!(requests, 2, "after two failures in a row nobody asks");
    let stats = store.remote_stats().unwrap();
    assert!(stats.breaker_open && stats.refused >= 4, "{stats:?}");
    network.proxy.set(ProxyFault::None);
    tokio::time::sleep(open_for).await;
    assert!(matches!(get(&store).await, Err(object_store::Error::NotFound { .. })), "it answers again");
    assert!(!store.remote_stats().unwrap().breaker_open);
}

/// S2: a call that nobody waits for any more is ended, not left running.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_dropped_call_sends_nothing_more() {
    let network = Network::new();
    let store = network.open(RemoteLimits { request_timeout: Duration::from_millis(50), ..impatient() }).await;
    network.proxy.set(ProxyFault::Hang);
    let objects = store.objects();
    let call = tokio::spawn(async move { objects.get(&Path::from("x")).await.map(drop) });
    let before = network.proxy.requests();
    while network.proxy.requests() < before + 1 {
        tokio::task::yield_now().await;
    }
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    let after = network.proxy.requests();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(network.proxy.requests(), after, "a cancelled call was tried again");
}
