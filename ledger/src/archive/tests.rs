use super::{examples::example, *};

#[test]
fn a_file_is_lines_of_json_that_say_what_was_archived() {
    let (batch, _) = example();
    let file = encode(&batch);
    let text = String::from_utf8(file.clone()).unwrap();
    assert!(text.ends_with('\n'));
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 1 + 1 + 4);
    assert_eq!(lines[0]["format"], FORMAT);
    assert_eq!(lines[0]["entries"], 4);
    assert_eq!(lines[1]["node"], "node \"a\"");
    assert_eq!(lines[2]["use"]["record"], "u1-1-0-0");
    assert_eq!(
        lines[2]["evidence"]["checkpoints"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
    assert_eq!(lines[4]["evidence"], serde_json::Value::Null);
    assert_eq!(
        lines[5]["emissionOf"],
        alloy_primitives::hex::encode_prefixed(batch.entries[0].leaf)
    );
}

#[test]
fn what_is_written_is_read() {
    let (batch, _) = example();
    let file = encode(&batch);
    let places = lines(&file);
    let head = Reader::new(&file, places[0].clone()).head().unwrap();
    assert_eq!(head.head, batch.head);
    assert_eq!((head.certificates, head.entries), (1, 4));
    assert_eq!(head.check.stated, head.check.computed);
    let (certificate, _, _) = Reader::new(&file, places[1].clone()).certificate().unwrap();
    assert_eq!(certificate, batch.certificates[0]);
    for (place, expected) in places[2..].iter().zip(&batch.entries) {
        let (entry, at, check) = Reader::new(&file, place.clone()).entry().unwrap();
        assert_eq!(entry, *expected);
        assert_eq!(check.stated, check.computed);
        assert!(place.start < at.leaf.start && at.content.end < place.end);
    }
}

#[test]
fn another_spelling_of_the_same_is_refused_at_its_first_byte() {
    let (batch, _) = example();
    let text = String::from_utf8(encode(&batch)).unwrap();
    for (written, other) in [
        (r#""jobNo":256"#, r#""jobNo": 256"#),
        (r#""jobNo":256"#, r#""jobNo":0256"#),
        (r#""payer":1"#, r#""payer":+1"#),
        (r#""cause":"MemberEnded""#, r#""cause":"\u004dember""#),
        (r#""counters":{"busyMillis":0,"#, r#""counters":{,"#),
        (r#""epoch":1,"seq":0"#, r#""seq":0,"epoch":1"#),
        (r#""leaf":"0x"#, r#""leaf":"0X"#),
        (r#""bridged":true"#, r#""bridged":True"#),
    ] {
        let at = text.find(written).unwrap();
        let changed = text.replacen(written, other, 1);
        assert_ne!(changed, text, "{written}");
        let file = changed.as_bytes();
        let line = lines(file)
            .into_iter()
            .find(|line| line.contains(&at))
            .unwrap();
        let error = Reader::new(file, line).entry().unwrap_err();
        assert!(
            error.at >= at && error.at <= at + other.len(),
            "{other}: {error}"
        );
    }
}

#[test]
fn strings_of_any_kind_survive() {
    let (mut batch, _) = example();
    let Content::Use(used) = &mut batch.entries[0].content else {
        panic!("the first entry is a slice");
    };
    used.background.job = "quote \" back \\ line \n zero \0 ü 🙂".to_owned();
    let file = encode(&batch);
    let place = lines(&file)[2].clone();
    let (entry, _, _) = Reader::new(&file, place.clone()).entry().unwrap();
    assert_eq!(entry, batch.entries[0]);
    let json: serde_json::Value = serde_json::from_slice(&file[place]).unwrap();
    assert_eq!(
        json["background"]["job"],
        "quote \" back \\ line \n zero \0 ü 🙂"
    );
}

#[test]
fn the_index_leads_to_the_file() {
    let (batch, _) = example();
    let address = address(&encode(&batch));
    assert_eq!(
        read_index_entry(index_entry(address).as_bytes()),
        Some(address)
    );
    assert_eq!(read_index_entry(b"0x12\n"), None);
    assert_eq!(
        read_index_entry(index_entry(address).trim_end().as_bytes()),
        None
    );
    assert!(object_path(address).starts_with("objects/"));
    assert_eq!(
        index_path(1, Address::repeat_byte(0xAB), 7, 42),
        format!(
            "lanes/1-0x{}-7/batches/00000000000000000042",
            "ab".repeat(20)
        )
    );
}
