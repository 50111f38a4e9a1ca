//! Hostile bytes: every truncation and every single-bit flip of every vector, and frames of noise.
//!
//! A changed frame must be refused, be incomplete, or be *harmless*: decode to something that encodes
//! to exactly the changed bytes, which shows that the decoder looked at every bit.

#[path = "support/vector_file.rs"]
mod vector_file;

use tenure_protocol::*;
use vector_file::entries;

/// What a reader makes of `bytes`.
#[derive(Debug, PartialEq)]
enum Verdict {
    Incomplete,
    Refused(ProtocolError),
    /// Encodes to these bytes again.
    Read(Vec<u8>),
}

fn as_server(bytes: &[u8]) -> Verdict {
    let limits = Limits::DEFAULT;
    match first_frame(bytes, limits.frame_bytes_max) {
        Ok(None) => Verdict::Incomplete,
        Err(error) => Verdict::Refused(error),
        Ok(Some(frame)) => match Request::decode(&frame, &limits) {
            Err(error) => Verdict::Refused(error),
            Ok(request) => {
                let mut out = Vec::new();
                request.encode(&mut out, frame.header.request_id);
                Verdict::Read(out)
            }
        },
    }
}

fn as_client(bytes: &[u8]) -> Verdict {
    match first_frame(bytes, limits::FRAME_BYTES_MAX) {
        Ok(None) => Verdict::Incomplete,
        Err(error) => Verdict::Refused(error),
        Ok(Some(frame)) => match Response::decode(&frame) {
            Err(error) => Verdict::Refused(error),
            Ok(response) => {
                let mut out = Vec::new();
                response.encode(&mut out, frame.header.request_id);
                Verdict::Read(out)
            }
        },
    }
}

type Reader = fn(&[u8]) -> Verdict;

fn vectors() -> Vec<(String, Vec<u8>, Reader)> {
    let requests = entries("protocol-requests.txt").into_iter();
    let responses = entries("protocol-responses.txt").into_iter();
    let requests = requests.map(|entry| (entry.name, entry.bytes, as_server as Reader));
    requests.chain(responses.map(|entry| (entry.name, entry.bytes, as_client as _))).collect()
}

#[test]
fn every_truncation_of_the_stream_is_incomplete() {
    for (name, bytes, read) in vectors() {
        for cut in 0..bytes.len() {
            assert_eq!(read(&bytes[..cut]), Verdict::Incomplete, "{name} cut at {cut}");
        }
    }
}

#[test]
fn every_truncation_with_a_matching_length_is_refused_or_harmless() {
    for (name, bytes, read) in vectors() {
        for cut in 12..bytes.len() {
            let mut short = bytes[..cut].to_vec();
            short[..4].copy_from_slice(&(cut as u32).to_le_bytes());
            match read(&short) {
                Verdict::Refused(error) => {
                    assert!(error.refusal().is_fatal(), "{name} cut at {cut}: {error}");
                }
                Verdict::Read(again) => assert_eq!(again, short, "{name} cut at {cut}"),
                Verdict::Incomplete => panic!("{name} cut at {cut}: the length matches, yet incomplete"),
            }
        }
    }
}

#[test]
fn every_bit_flip_is_refused_or_harmless() {
    let mut refused = 0;
    for (name, bytes, read) in vectors() {
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            match read(&flipped) {
                Verdict::Refused(_) => refused += 1,
                // A longer length waits for more bytes; a shorter one leaves a frame that must stand by itself.
                Verdict::Incomplete => assert!(bit < 32, "{name} bit {bit}: only the length can do this"),
                Verdict::Read(again) => {
                    assert_eq!(again, flipped[..again.len()], "{name} bit {bit}");
                    assert!(again.len() == bytes.len() || bit < 32, "{name} bit {bit}");
                }
            }
        }
    }
    assert!(refused > 1_000, "only {refused} flips were refused: is anything checked?");
}

#[test]
fn every_bit_flip_of_the_checked_header_fields_is_noticed() {
    for (name, bytes, read) in vectors() {
        // Opcode, flags and reserved: bytes 4 to 7. A flip may give another valid frame, never the same one.
        let Verdict::Read(original) = read(&bytes) else { panic!("{name}") };
        for bit in 32..64 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(read(&flipped), Verdict::Read(original.clone()), "{name} bit {bit}");
            if bit >= 48 {
                assert!(matches!(read(&flipped), Verdict::Refused(_)), "{name} reserved bit {bit}");
            }
        }
    }
}

#[test]
fn the_short_cut_takes_nothing_that_the_decoder_would_not() {
    let renew = renew_frame(RequestId(9), LeaseId(0x0102_0304_0506_0708));
    for bit in 0..renew.len() * 8 {
        let mut flipped = renew;
        flipped[bit / 8] ^= 1 << (bit % 8);
        let slow = match first_frame(&flipped, limits::FRAME_BYTES_MAX) {
            Ok(Some(frame)) => match Request::decode(&frame, &Limits::DEFAULT) {
                Ok(Request::Renew { id }) => Some((frame.header.request_id, id)),
                _ => None,
            },
            _ => None,
        };
        assert_eq!(renew_at(&flipped), slow, "bit {bit}");
    }
    for cut in 0..renew.len() {
        assert_eq!(renew_at(&renew[..cut]), None, "cut at {cut}");
    }
}

/// A small generator with a fixed seed: the same frames every time, whatever a library does.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 ^ (self.0 >> 29)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 16) as usize % bound
    }
}

#[test]
fn damaged_vectors_never_panic_and_what_is_read_encodes_to_itself() {
    let vectors = vectors();
    let mut noise = Noise(0x7E17_0000);
    let (mut read_count, mut refused_count) = (0, 0);
    for round in 0..200_000u32 {
        // A vector, sometimes cut or extended, the length made to match, and up to three bytes changed:
        // mostly to small numbers, because counts and lengths that nearly fit find more than large ones.
        let (name, bytes, read) = &vectors[noise.below(vectors.len())];
        let mut bytes = bytes.clone();
        if noise.below(2) == 0 {
            bytes.resize((bytes.len() + noise.below(24)).saturating_sub(8).max(12), 0);
        }
        let length = bytes.len() as u32;
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        for _ in 0..noise.below(4) {
            let at = 4 + noise.below(bytes.len() - 4);
            let value = noise.below(256) as u8;
            bytes[at] = if noise.below(3) == 0 { value } else { value & 3 };
        }
        match read(&bytes) {
            Verdict::Read(again) => {
                read_count += 1;
                assert_eq!(again, bytes, "round {round}: {name}");
            }
            Verdict::Refused(_) => refused_count += 1,
            Verdict::Incomplete => panic!("round {round}: {name}: the length matches, yet incomplete"),
        }
    }
    assert!(read_count > 20_000 && refused_count > 20_000, "{read_count} read, {refused_count} refused");
}
