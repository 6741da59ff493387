//! The multiplication for any machine; also the reading aid for the AVX2 version.

use super::{Element, Job, PANEL};

pub(super) fn run<T: Element>(job: &Job<'_, T>) {
    let panels = job.panels.chunks_exact(job.inputs * PANEL);
    for (index, panel) in panels.enumerate() {
        for (row, x) in job.x.chunks_exact(job.inputs).enumerate() {
            let mut sums = [0.0_f32; PANEL];
            for (x, weights) in x.iter().zip(panel.chunks_exact(PANEL)) {
                for (sum, weight) in sums.iter_mut().zip(weights) {
                    *sum = weight.widen().mul_add(*x, *sum);
                }
            }
            // SAFETY: the columns of a job's panels belong to it alone.
            unsafe { job.columns.write(row, job.first_column + index * PANEL, &sums) };
        }
    }
}
