//! Plots as inline SVG: lines over windows, and bars over policies.
//!
//! Colours are classes (`s0` to `s5`), so that the page's style can set them for light and dark. The
//! vertical axis begins at zero and ends at a round number; a legend names every series, and a bar or
//! line tells its figures when pointed at.

use super::html::escape;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 30.0;
const COLOURS: usize = 6;

/// A line of a plot.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// What the legend calls it.
    pub name: String,
    /// Which of the page's colours.
    pub colour: usize,
    /// One value for each place on the horizontal axis; a gap where there is none.
    pub values: Vec<Option<f64>>,
}

/// A bar of a plot.
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    /// What stands below it.
    pub name: String,
    /// Which of the page's colours.
    pub colour: usize,
    /// Its height.
    pub value: f64,
    /// The value in words.
    pub label: String,
}

/// A bound drawn across a plot.
#[derive(Debug, Clone, PartialEq)]
pub struct Mark {
    /// What the legend calls it.
    pub name: String,
    /// Its height.
    pub value: f64,
}

/// Lines over a shared horizontal axis; `x_labels` names its places, empty where a name would crowd.
pub fn lines(title: &str, unit: &str, x_labels: &[String], series: &[Series]) -> String {
    let values = series
        .iter()
        .flat_map(|line| line.values.iter().copied().flatten());
    let scale = Scale::of(values.fold(0.0, f64::max));
    let places = x_labels.len().max(2) - 1;
    let x = |place: usize| LEFT + (WIDTH - LEFT - RIGHT) * place as f64 / places as f64;
    let paths: String = series.iter().map(|line| path(line, &scale, x)).collect();
    let labelled = x_labels.iter().enumerate().filter(|(_, label)| !label.is_empty());
    let labels: String = labelled
        .map(|(place, label)| text(x(place), HEIGHT - 8.0, "middle", label))
        .collect();
    let names: Vec<(usize, &str)> = series
        .iter()
        .map(|line| (line.colour, line.name.as_str()))
        .collect();
    figure(
        title,
        unit,
        &format!("{}{paths}{labels}", scale.grid()),
        &legend(&names),
    )
}

/// One bar each, with an optional bound across them.
pub fn bars(title: &str, unit: &str, bars: &[Bar], mark: Option<&Mark>) -> String {
    let largest = bars
        .iter()
        .map(|bar| bar.value)
        .chain(mark.map(|mark| mark.value))
        .fold(0.0, f64::max);
    let scale = Scale::of(largest);
    let step = (WIDTH - LEFT - RIGHT) / bars.len().max(1) as f64;
    let drawn: String = bars
        .iter()
        .enumerate()
        .map(|(place, bar)| rectangle(bar, &scale, LEFT + step * (place as f64 + 0.5), step * 0.6))
        .collect();
    let line = mark.map_or_else(String::new, |mark| level("mark", scale.y(mark.value)));
    let legend = mark.map_or_else(String::new, |mark| {
        let name = escape(&mark.name);
        format!("<div class=\"legend\"><span class=\"key\"><i class=\"bound\"></i>{name}</span></div>")
    });
    figure(title, unit, &format!("{}{drawn}{line}", scale.grid()), &legend)
}

/// A line across the plot.
fn level(class: &str, y: f64) -> String {
    format!(
        "<line class=\"{class}\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>",
        WIDTH - RIGHT
    )
}

/// A vertical axis from zero to a round number.
struct Scale {
    step: f64,
    steps: u32,
}

impl Scale {
    /// The smallest round axis of 3 to 6 steps that holds `largest`.
    fn of(largest: f64) -> Scale {
        if !(largest.is_finite() && largest > 0.0) {
            return Scale { step: 1.0, steps: 1 };
        }
        let magnitude = 10_f64.powf((largest / 5.0).log10().floor());
        let step = [1.0, 2.0, 2.5, 5.0, 10.0].map(|round| round * magnitude);
        let step = step
            .into_iter()
            .find(|step| largest / step <= 5.0)
            .unwrap_or(10.0 * magnitude);
        Scale {
            step,
            steps: ((largest / step) - 1e-9).ceil().max(1.0) as u32,
        }
    }

    fn y(&self, value: f64) -> f64 {
        let share = value / (self.step * f64::from(self.steps));
        HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share.clamp(0.0, 1.0)
    }

    fn grid(&self) -> String {
        let decimals = (-self.step.log10().floor()).max(0.0) as usize + usize::from(self.needs_half());
        (0..=self.steps)
            .map(|step| {
                let value = self.step * f64::from(step);
                let y = self.y(value);
                level("grid", y) + &text(LEFT - 6.0, y + 4.0, "end", &format!("{value:.decimals$}"))
            })
            .collect()
    }

    /// Steps of 2.5, 0.25 and so on need one more decimal than their magnitude says.
    fn needs_half(&self) -> bool {
        let leading = self.step / 10_f64.powf(self.step.log10().floor());
        (leading - 2.5).abs() < 1e-9 && self.step < 10.0
    }
}

fn path(line: &Series, scale: &Scale, x: impl Fn(usize) -> f64) -> String {
    let mut drawn = String::new();
    let mut is_down = false;
    for (place, value) in line.values.iter().enumerate() {
        if let Some(value) = value {
            let verb = if is_down { 'L' } else { 'M' };
            drawn.push_str(&format!("{verb}{:.1} {:.1}", x(place), scale.y(*value)));
        }
        is_down = value.is_some();
    }
    let class = line.colour % COLOURS;
    format!(
        "<path class=\"line s{class}\" d=\"{drawn}\"><title>{}</title></path>",
        escape(&line.name)
    )
}

fn rectangle(bar: &Bar, scale: &Scale, centre: f64, width: f64) -> String {
    let (y, foot) = (scale.y(bar.value), HEIGHT - BOTTOM);
    let (x, class) = (centre - width / 2.0, bar.colour % COLOURS);
    let title = escape(&format!("{}: {}", bar.name, bar.label));
    let shape = format!(
        "<rect class=\"bar s{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{:.1}\"><title>{title}</title></rect>",
        foot - y
    );
    shape + &text(centre, y - 5.0, "middle", &bar.label) + &text(centre, HEIGHT - 10.0, "middle", &bar.name)
}

fn text(x: f64, y: f64, anchor: &str, content: &str) -> String {
    format!(
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>",
        escape(content)
    )
}

fn legend(names: &[(usize, &str)]) -> String {
    let item = |(colour, name): &(usize, &str)| {
        format!(
            "<span class=\"key\"><i class=\"s{}\"></i>{}</span>",
            colour % COLOURS,
            escape(name)
        )
    };
    format!(
        "<div class=\"legend\">{}</div>",
        names.iter().map(item).collect::<String>()
    )
}

fn figure(title: &str, unit: &str, content: &str, legend: &str) -> String {
    let caption = escape(&format!("{title} ({unit})"));
    format!(
        "<figure><figcaption>{caption}</figcaption>{legend}\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         aria-label=\"{caption}\">{content}</svg></figure>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers_above_the_largest_value() {
        for (largest, step, steps) in [
            (0.84, 0.2, 5),
            (1.0, 0.2, 5),
            (61_000.0, 20_000.0, 4),
            (5.0, 1.0, 5),
            (9.5, 2.0, 5),
            (11.0, 2.5, 5),
        ] {
            let scale = Scale::of(largest);
            assert!(
                (scale.step - step).abs() < 1e-9 * step,
                "{largest}: {}",
                scale.step
            );
            assert_eq!(scale.steps, steps, "{largest}");
        }
        for nothing in [0.0, f64::NAN, f64::INFINITY] {
            assert_eq!(Scale::of(nothing).steps, 1);
        }
        assert!(
            Scale::of(11.0).grid().contains(">12.5<"),
            "{}",
            Scale::of(11.0).grid()
        );
    }

    #[test]
    fn a_gap_in_the_values_is_a_gap_in_the_line() {
        let values = vec![Some(1.0), Some(2.0), None, Some(0.0), Some(2.0)];
        let series = [Series {
            name: "<a>".into(),
            colour: 8,
            values,
        }];
        let labels: Vec<String> = (0..5).map(|place| place.to_string()).collect();
        let svg = lines("t", "u", &labels, &series);
        assert!(
            svg.contains("d=\"M58.0 122.0L255.0 14.0M649.0 230.0L846.0 14.0\""),
            "{svg}"
        );
        assert!(
            svg.contains("class=\"line s2\"") && svg.contains("&lt;a&gt;") && !svg.contains("<a>"),
            "{svg}"
        );
    }

    #[test]
    fn bars_stand_on_the_axis_and_a_mark_fits_in() {
        let bar = |value| Bar {
            name: "p".into(),
            colour: 0,
            value,
            label: "l".into(),
        };
        let mark = Mark {
            name: "best".into(),
            value: 10.0,
        };
        let svg = bars("t", "u", &[bar(5.0), bar(0.0)], Some(&mark));
        assert!(
            svg.contains("y=\"122.0\" width=\"236.4\" height=\"108.0\""),
            "{svg}"
        );
        assert!(
            svg.contains("height=\"0.0\"") && svg.contains("y1=\"14.0\" y2=\"14.0\"/>"),
            "{svg}"
        );
        assert!(bars("t", "u", &[], None).contains("<svg"));
    }
}
