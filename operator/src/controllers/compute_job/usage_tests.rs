//! Facts about a job's books.

use super::*;

fn record(slice: u32, status: &str) -> UsageRecord {
    let from = if slice == 0 {
        String::new()
    } else {
        format!(", fromMs: {}", slice * 1000)
    };
    serde_saphyr::from_str(&format!(
        "{{apiVersion: gridstake.dev/v1alpha1, kind: UsageRecord, metadata: {{name: u-1-0-{slice}}}, \
         spec: {{job: {{namespace: n, name: j, uid: u}}, attempt: 1, member: 0, slice: {slice}, podName: j-1-0, nodeName: a, gpuCount: 1{from}, \
         payment: {{chain: anvil, lane: 7, payer: 3, provider: 9, perGpuSecond: '0.00072'}}}}, status: {{{status}}}}}"
    ))
    .unwrap()
}

fn sealed(cause: &str, settlement: &str) -> String {
    let hash = format!("0x{}", "0".repeat(64));
    format!(
        "sealed: {{jobNo: 5, startMs: 0, endMs: 1500, gpuMillis: 1500, price: '0.00072', cause: {cause}, energyMillijoules: 10, receiptHash: '{hash}'}}{settlement}"
    )
}

#[test]
fn a_record_tells_its_bill_and_how_far_its_payment_is() {
    let slice = Slice::read(&record(0, &sealed("IntervalElapsed", "")));
    assert_eq!(
        slice.bill,
        Some(Bill {
            gpu_millis: 1500,
            energy_millijoules: Some(10),
            cost_nano: Some(1_080_000),
            goes_on: true
        })
    );
    assert_eq!(slice.payment, Progress::Open);
    let hash = format!("0x{}", "1".repeat(64));
    let paid = format!(
        ", settlement: {{state: Final, transaction: '{hash}', block: {{number: 12, hash: '{hash}'}}}}"
    );
    let slice = Slice::read(&record(0, &sealed("MemberEnded", &paid)));
    assert_eq!(slice.payment, Progress::Final(Some((12, hash))));
    assert!(!slice.bill.unwrap().goes_on);
}

#[test]
fn slices_add_up() {
    let books = Books::new(vec![
        Slice::read(&record(1, &sealed("MemberEnded", ""))),
        Slice::read(&record(0, &sealed("IntervalElapsed", ""))),
    ]);
    assert!(books.are_closed());
    assert_eq!(books.gpu_millis(1), Some(3000));
    let usage = books.usage(None, &[]).unwrap();
    assert_eq!(
        (
            usage.gpu_millis,
            usage.energy_millijoules,
            usage.cost.map(TokenAmount::nano)
        ),
        (3000, Some(20), Some(2_160_000))
    );
}

#[test]
fn a_member_goes_on_until_a_slice_is_its_last() {
    let first = Slice::read(&record(0, &sealed("IntervalElapsed", "")));
    let open = Slice::read(&record(1, ""));
    assert!(
        !Books::new(vec![first.clone()]).is_closed(1, 0),
        "the next slice is not open yet"
    );
    assert!(!Books::new(vec![first.clone(), open]).is_closed(1, 0));
    assert_eq!(Books::new(vec![first]).gpu_millis(1), None);
    assert!(!Books::default().is_closed(1, 0));
    assert!(Books::default().are_closed());
}

#[test]
fn use_never_shrinks() {
    let before = JobUsage {
        gpu_millis: 9000,
        ..JobUsage::default()
    };
    let books = Books::new(vec![Slice::read(&record(0, &sealed("MemberEnded", "")))]);
    assert_eq!(books.usage(Some(&before), &[]).unwrap().gpu_millis, 9000);
}
