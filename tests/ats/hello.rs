//! A TLS 1.2 hello by hand, for suites that no client of ours knows.

/// A whole record that offers one cipher suite.
pub(super) fn offering(suite: u16, host: &str) -> Vec<u8> {
    let mut name = vec![0];
    name.extend(sized(host.as_bytes()));
    let mut extensions = extension(0, &sized(&name));
    extensions.extend(extension(10, &sized(&[0, 23, 0, 29])));
    extensions.extend(extension(11, &[1, 0]));
    extensions.extend(extension(13, &sized(&[4, 3, 4, 1, 8, 4])));
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    hello.push(0);
    hello.extend(sized(&suite.to_be_bytes()));
    hello.extend([1, 0]);
    hello.extend(sized(&extensions));
    let mut message = vec![1, 0];
    message.extend(sized(&hello));
    let mut record = vec![22, 3, 1];
    record.extend(sized(&message));
    record
}

fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
    [kind.to_be_bytes().to_vec(), sized(body)].concat()
}

/// The bytes with their length in two bytes before them.
fn sized(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap();
    [length.to_be_bytes().to_vec(), bytes.to_vec()].concat()
}
