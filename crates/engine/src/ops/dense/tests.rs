use candle_core::Device;

use super::*;

/// Numbers that look random but are not.
fn noise(count: usize, seed: u64) -> Vec<f32> {
    (0..count as u32).map(|index| crate::random::uniform(seed, index) as f32 - 0.5).collect()
}

fn weights(outputs: usize, inputs: usize, dtype: DType) -> Tensor {
    let numbers = noise(outputs * inputs, 1);
    Tensor::from_vec(numbers, (outputs, inputs), &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

fn product(dense: &Dense, x: &[f32], pool: &Pool) -> Vec<f32> {
    let mut out = Vec::new();
    dense.multiply(x, &mut out, pool);
    out
}

#[test]
fn products_are_those_of_the_textbook() {
    let pool = Pool::new(2).unwrap();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for (rows, outputs, inputs) in [(1, 5, 3), (2, 16, 64), (7, 100, 33), (13, 130, 256)] {
            let weights = weights(outputs, inputs, dtype);
            let dense = Dense::pack(std::slice::from_ref(&weights)).unwrap();
            let x = noise(rows * inputs, 2);

            let out = product(&dense, &x, &pool);

            let weights = weights.to_dtype(DType::F64).unwrap().to_vec2::<f64>().unwrap();
            for (row, out) in x.chunks(inputs).zip(out.chunks(outputs)) {
                for (weights, out) in weights.iter().zip(out) {
                    let exact: f64 = row.iter().zip(weights).map(|(x, w)| f64::from(*x) * w).sum();
                    assert!((exact - f64::from(*out)).abs() < 1e-4, "{dtype:?}: {exact} {out}");
                }
            }
        }
    }
}

#[test]
fn a_row_alone_equals_the_row_among_others_bit_for_bit() {
    let (inputs, outputs) = (256, 1_000);
    let shared = Pool::new(3).unwrap();
    let alone = Pool::new(1).unwrap();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let dense = Dense::pack(&[weights(outputs, inputs, dtype)]).unwrap();
        let x = noise(20 * inputs, 3);
        for rows in 1..=20 {
            let together = product(&dense, &x[..rows * inputs], &shared);
            for (row, out) in x.chunks(inputs).zip(together.chunks(outputs)) {
                assert!(product(&dense, row, &alone) == out, "{dtype:?}, {rows} rows");
            }
        }
    }
}

/// What one version of the multiplication makes of a job.
fn version(run: impl Fn(&Job<'_, f16>), dense: &Dense, x: &[f32]) -> Vec<f32> {
    let Panels::F16(panels) = &dense.panels else { panic!("packed as stored") };
    let (rows, inputs, outputs) = (x.len() / dense.inputs, dense.inputs, dense.outputs);
    let mut out = vec![0.0; rows * outputs];
    let columns = Columns { out: out.as_mut_ptr(), rows, outputs };
    run(&Job { x, inputs, panels, first_column: 0, columns: &columns });
    out
}

#[test]
fn every_version_that_this_machine_can_run_gives_the_same_bits() {
    let (inputs, outputs) = (96, 210);
    let dense = Dense::pack(&[weights(outputs, inputs, DType::F16)]).unwrap();
    for rows in 1..=30 {
        let x = noise(rows * inputs, 4);
        let portable = version(portable::run, &dense, &x);

        #[cfg(target_arch = "x86_64")]
        if crate::ops::vector::has_avx2() {
            // SAFETY: the machine was just found to have these features.
            let avx2 = version(|job| unsafe { x86::run(job) }, &dense, &x);
            assert!(avx2 == portable, "AVX2, {rows} rows");
        }
        #[cfg(target_arch = "x86_64")]
        if crate::ops::vector::has_avx512() {
            // SAFETY: the machine was just found to have these features.
            let avx512 = version(|job| unsafe { x86_512::run(job) }, &dense, &x);
            assert!(avx512 == portable, "AVX-512, {rows} rows");
        }
        assert!(product(&dense, &x, &Pool::new(1).unwrap()) == portable, "chosen, {rows} rows");
    }
}

#[test]
fn rows_of_packed_parts_are_the_rows_that_were_packed() {
    let (first, second) = (weights(10, 4, DType::BF16), weights(9, 4, DType::BF16));
    let dense = Dense::pack(&[first.clone(), second.clone()]).unwrap();

    let rows = dense.rows(&[9, 10, 18]).unwrap().to_vec2::<f32>().unwrap();

    let first = first.to_dtype(DType::F32).unwrap().to_vec2::<f32>().unwrap();
    let second = second.to_dtype(DType::F32).unwrap().to_vec2::<f32>().unwrap();
    assert_eq!(rows, [first[9].clone(), second[0].clone(), second[8].clone()]);
    assert!(dense.rows(&[19]).is_err());
}
