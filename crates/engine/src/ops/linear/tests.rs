use candle_core::Device;

use super::*;

#[test]
fn a_quantized_row_alone_equals_the_row_among_others_bit_for_bit() {
    let (inputs, outputs, rows) = (512, 96, 20);
    let noise = |count: usize, seed| {
        (0..count as u32).map(|index| crate::random::uniform(seed, index) as f32 - 0.5).collect()
    };
    let weights: Vec<f32> = noise(outputs * inputs, 1);
    let weights = Tensor::from_vec(weights, (outputs, inputs), &Device::Cpu).unwrap();
    let x: Vec<f32> = noise(rows * inputs, 2);
    let x = Tensor::from_vec(x, (rows, inputs), &Device::Cpu).unwrap();
    let pool = Pool::new(1).unwrap();
    for dtype in [GgmlDType::Q4_0, GgmlDType::Q8_0, GgmlDType::Q4K, GgmlDType::Q5K, GgmlDType::Q6K]
    {
        let weights = QTensor::quantize(&weights, dtype).unwrap();
        let linear = Linear::Quantized(vec![Quantized::new(weights).unwrap()]);
        let alone: Vec<Vec<f32>> = (0..rows)
            .flat_map(|row| product(&linear, &x.narrow(0, row, 1).unwrap(), &pool))
            .collect();
        for together in 1..=rows {
            let out = product(&linear, &x.narrow(0, 0, together).unwrap(), &pool);
            assert!(out == alone[..together], "{dtype:?}, {together} rows");
        }
    }
}

fn product(linear: &Linear, x: &Tensor, pool: &Pool) -> Vec<Vec<f32>> {
    linear.apply(&x.contiguous().unwrap(), pool).unwrap().to_vec2().unwrap()
}
