//! Charts as inline SVG. Colours are CSS variables, so that one drawing serves the light and the dark theme.

use std::{collections::BTreeMap, ops::Range};

use plotters::{
    coord::{
        ranged1d::{DefaultFormatting, KeyPointHint, Ranged},
        types::RangedCoordf64,
    },
    prelude::*,
};

use super::{InFlight, Series};
use crate::lab::Policy;

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
type DrawResult = Result<(), Box<dyn std::error::Error>>;

/// Placeholder colours, which CSS variables replace in the finished drawing. No chart uses these colours otherwise.
const TEXT: RGBColor = RGBColor(1, 2, 3);
const GRID: RGBColor = RGBColor(4, 5, 6);
const HOST: RGBColor = RGBColor(7, 8, 9);
const FONT: &str = "sans-serif";

fn colour(policy: Policy) -> RGBColor {
    RGBColor(10, 11, Policy::ALL.iter().position(|p| *p == policy).unwrap_or_default() as u8)
}

fn hex(colour: RGBColor) -> String {
    format!("#{:02X}{:02X}{:02X}", colour.0, colour.1, colour.2)
}

/// An axis with ticks at given positions.
struct Ticks {
    from: f64,
    to: f64,
    at: Vec<f64>,
}

impl Ranged for Ticks {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = (value - self.from) / (self.to - self.from);
        limit.0 + (share * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<H: KeyPointHint>(&self, _hint: H) -> Vec<f64> {
        self.at.clone()
    }

    fn range(&self) -> Range<f64> {
        self.from..self.to
    }
}

/// Draws a chart and replaces the placeholder colours by CSS variables.
fn draw(width: u32, height: u32, label: &str, paint: impl FnOnce(&Area<'_>) -> DrawResult) -> String {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (width, height)).into_drawing_area();
        // Drawing into a string does not fail. If it did, the report would lack only this chart.
        if paint(&area).and_then(|()| area.present().map_err(Into::into)).is_err() {
            return String::new();
        }
    }
    svg = svg
        .replace(&hex(TEXT), "var(--muted)")
        .replace(&hex(GRID), "var(--grid)")
        .replace(&hex(HOST), "var(--host)");
    for policy in Policy::ALL {
        svg = svg.replace(&hex(colour(policy)), &format!("var(--{})", policy.name()));
    }
    svg.replacen(
        &format!("<svg width=\"{width}\" height=\"{height}\""),
        &format!("<svg role=\"img\" aria-label=\"{label}\""),
        1,
    )
}

fn mesh(
    chart: &mut Chart<'_, '_>,
    x_label: &str,
    y_label: &str,
    x: &dyn Fn(&f64) -> String,
    y: &dyn Fn(&f64) -> String,
    labels: (usize, usize),
    size: u32,
) -> DrawResult {
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(GRID)
        .label_style((FONT, size).into_font().color(&TEXT))
        .axis_desc_style((FONT, size).into_font().color(&TEXT))
        .x_desc(x_label)
        .y_desc(y_label)
        .x_labels(labels.0)
        .y_labels(labels.1)
        .x_label_formatter(x)
        .y_label_formatter(y)
        .draw()?;
    Ok(())
}

/// Draws the distribution of the time to first token. The time axis is logarithmic. On the vertical axis, each step up
/// leaves a tenth of the requests.
pub(super) fn ttft_cdf(series: &BTreeMap<Policy, Series>) -> String {
    let max = series.values().filter_map(|s| s.ttft_ms.last()).copied().fold(1000.0, f64::max);
    let min = series.values().filter_map(|s| s.ttft_ms.first()).copied().fold(100.0, f64::min).max(1.0);
    draw(1100, 430, "Distribution of the time to first token", |area| {
        let (from, to) = (min.log10(), (max * 1.05).log10());
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .margin_right(28)
            .x_label_area_size(48)
            .y_label_area_size(74)
            .build_cartesian_2d(
                Ticks { from, to, at: one_two_five(min, max) },
                Ticks { from: 0.0, to: 3.3, at: vec![0.0, 2f64.log10(), 1.0, 2.0, 3.0] },
            )?;
        {
            let y = |nines: &f64| format!("{} %", trim(100.0 * (1.0 - 10f64.powf(-nines)), 1));
            let x = |log: &f64| duration(10f64.powf(*log));
            chart
                .configure_mesh()
                .light_line_style(TRANSPARENT)
                .bold_line_style(GRID)
                .axis_style(GRID)
                .label_style((FONT, 15).into_font().color(&TEXT))
                .axis_desc_style((FONT, 15).into_font().color(&TEXT))
                .x_desc("time to first token")
                .y_desc("requests served")
                .x_label_formatter(&x)
                .y_label_formatter(&y)
                .draw()?;
        }
        for (policy, s) in series {
            let n = s.ttft_ms.len() as f64;
            let points = s.ttft_ms.iter().enumerate().map(|(i, t)| {
                let left = (1.0 - i as f64 / n).max(1.0 / n);
                (t.max(1.0).log10(), (-left.log10()).min(3.3))
            });
            let width = if policy.is_evenkeel() { 4 } else { 2 };
            chart.draw_series(LineSeries::new(
                thin(points.collect(), 900),
                colour(*policy).stroke_width(width),
            ))?;
        }
        Ok(())
    })
}

/// What a small chart with a line for each host shows.
pub(super) struct HostChart {
    pub(super) title: &'static str,
    pub(super) values: fn(&InFlight) -> &[u64],
    /// End of the vertical axis.
    pub(super) max: f64,
    /// Value of the dashed line.
    pub(super) mark: Option<f64>,
}

/// Draws a value of each host over time, as a small chart.
pub(super) fn hosts(policy: Policy, series: &Series, chart: &HostChart) -> String {
    let HostChart { title, values, max, mark } = *chart;
    let end = series.in_flight.last().map_or(1.0, |s| s.at_s).max(1.0);
    draw(540, 230, &format!("{title} on each host under {policy}"), |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .margin_right(24)
            .x_label_area_size(26)
            .y_label_area_size(48)
            .build_cartesian_2d(0.0..end, 0.0..max)?;
        mesh(&mut chart, "", "", &|t| format!("{t:.0} s"), &thousands, (6, 5), 14)?;
        let hosts = series.in_flight.first().map_or(0, |s| values(s).len());
        for host in 0..hosts {
            let points = series.in_flight.iter().map(|s| (s.at_s, values(s)[host] as f64)).collect();
            chart
                .draw_series(LineSeries::new(thin(points, 400), colour(policy).mix(0.55).stroke_width(1)))?;
        }
        if let Some(mark) = mark {
            let ends = [(0.0, mark), (end, mark)];
            chart.draw_series(DashedLineSeries::new(ends, 5, 4, HOST.stroke_width(1)))?;
        }
        Ok(())
    })
}

/// Draws the imbalance over time with one line per policy.
pub(super) fn imbalance(series: &BTreeMap<Policy, Series>) -> String {
    let smooth: BTreeMap<Policy, Vec<(f64, f64)>> =
        series.iter().map(|(policy, s)| (*policy, smoothed(s, 90))).collect();
    let points = || smooth.values().flatten();
    let end = points().map(|p| p.0).fold(1.0, f64::max);
    let max = points().map(|p| p.1).fold(1.0, f64::max) * 1.05;
    draw(1100, 320, "Requests on the busiest host above the mean over time", |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .margin_right(28)
            .x_label_area_size(44)
            .y_label_area_size(60)
            .build_cartesian_2d(0.0..end, 0.0..max)?;
        mesh(
            &mut chart,
            "trace time",
            "requests above the mean",
            &|t| format!("{t:.0} s"),
            &|n| format!("{n:.0}"),
            (10, 6),
            15,
        )?;
        for (policy, points) in smooth {
            let width = if policy.is_evenkeel() { 3 } else { 2 };
            chart.draw_series(LineSeries::new(points, colour(policy).stroke_width(width)))?;
        }
        Ok(())
    })
}

/// Returns the mean imbalance in each of about `bins` equal intervals.
fn smoothed(series: &Series, bins: usize) -> Vec<(f64, f64)> {
    let chunk = series.in_flight.len().div_ceil(bins).max(1);
    series
        .in_flight
        .chunks(chunk)
        .map(|c| {
            let n = c.len() as f64;
            (c.iter().map(|s| s.at_s).sum::<f64>() / n, c.iter().map(InFlight::imbalance).sum::<f64>() / n)
        })
        .collect()
}

/// Reduces the points to about `max`. Does not drop any of the last 60 points, which show the tail.
fn thin(points: Vec<(f64, f64)>, max: usize) -> Vec<(f64, f64)> {
    let every = points.len().div_ceil(max).max(1);
    let tail = points.len().saturating_sub(60);
    points.into_iter().enumerate().filter(|(i, _)| i % every == 0 || *i >= tail).map(|(_, p)| p).collect()
}

/// Returns the logarithms of 1, 2, 5, 10, 20 … between two values.
fn one_two_five(min: f64, max: f64) -> Vec<f64> {
    (0..8)
        .flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(power)))
        .filter(|v| (min..=max).contains(v))
        .map(f64::log10)
        .collect()
}

/// Formats a duration, such as `850 ms` or `1.8 s`.
pub(super) fn duration(ms: f64) -> String {
    if ms < 999.5 { format!("{ms:.0} ms") } else { format!("{} s", trim(ms / 1e3, 1)) }
}

/// Formats a number of requests or tokens, such as `850` or `12k`.
fn thousands(n: &f64) -> String {
    if *n < 10_000.0 { format!("{n:.0}") } else { format!("{:.0}k", n / 1e3) }
}

fn trim(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    #[test]
    fn drawings_use_only_css_variables() {
        let (_, series) = sample();
        for svg in [
            ttft_cdf(&series),
            imbalance(&series),
            hosts(
                Policy::Ideal,
                &series[&Policy::Ideal],
                &HostChart { title: "Requests", values: |s| &s.hosts, max: 20.0, mark: Some(16.0) },
            ),
        ] {
            assert!(svg.starts_with("<svg role=\"img\""), "{svg:.200}");
            assert!(svg.contains("var(--ideal)") && svg.contains("var(--grid)"));
            for placeholder in [TEXT, GRID, HOST] {
                assert!(!svg.contains(&hex(placeholder)));
            }
        }
    }

    #[test]
    fn durations_are_formatted() {
        assert_eq!([duration(12.3), duration(1000.0), duration(1778.0)], ["12 ms", "1 s", "1.8 s"]);
    }
}
