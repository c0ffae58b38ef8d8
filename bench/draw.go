package main

import (
	"fmt"
	"image/color"
	"math"
	"os"
	"path/filepath"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Mid-tones, which stand out from a white page and from a black one.
var (
	grey   = color.RGBA{0x84, 0x88, 0x8e, 0xff}
	faint  = color.RGBA{0x84, 0x88, 0x8e, 0x40}
	blue   = color.RGBA{0x2f, 0x81, 0xf7, 0xff}
	orange = color.RGBA{0xdb, 0x7b, 0x2b, 0xff}
	green  = color.RGBA{0x3f, 0xa0, 0x5a, 0xff}
)

// styles are how the contenders are drawn; the limits are dashed.
var styles = map[string]struct {
	color  color.Color
	dashed bool
	label  string
}{
	ours:       {blue, false, ours},
	reference:  {orange, false, reference},
	caarlos:    {orange, false, caarlos},
	limit:      {green, true, "the limit: the bare read"},
	serverPart: {green, true, "the limit: the server's part"},
	lookOnly:   {green, true, "the limit: look at every variable"},
	lookFirst:  {grey, true, "look, and keep the first of each name"},
}

// A picture is a file and what is to be seen in it.
type picture struct {
	file, title, across string
	lines               []line
	narrow              bool // one scale of times, and no decades to cross
}

type line struct {
	contender string
	points    plotter.XYs
}

func (s *suite) pictures() []picture {
	lines := func(contenders []string, at []key, x func(key) float64) (lines []line) {
		for _, c := range contenders {
			l := line{contender: c}
			for _, k := range at {
				if r, ok := s.results[k.of(c)]; ok {
					l.points = append(l.points, plotter.XY{X: x(k), Y: milliseconds(r.time)})
				}
			}
			lines = append(lines, l)
		}
		return lines
	}
	overSize := func(operation string, latency time.Duration, contenders ...string) []line {
		var at []key
		for _, n := range s.sizes {
			at = append(at, key{operation: operation, n: n, latency: latency})
		}
		return lines(contenders, at, func(k key) float64 { return float64(k.n) })
	}
	overLatency := func(operation string, n int, contenders ...string) []line {
		var at []key
		for _, latency := range s.latencies {
			at = append(at, key{operation: operation, n: n, latency: latency})
		}
		return lines(contenders, at, func(k key) float64 { return milliseconds(k.latency) })
	}
	const size = "providers, with 3 keys each"
	return []picture{
		{file: "first-start.svg", title: "First start, 1 ms to the database", across: size, lines: overSize(firstStart, time.Millisecond, reference, ours, serverPart)},
		{file: "no-op-start.svg", title: "Start that changes nothing, 1 ms to the database", across: size, lines: overSize(noOpStart, time.Millisecond, reference, ours, limit)},
		{file: "first-start-local.svg", title: "First start, database on the same machine", across: size, lines: overSize(firstStart, 0, reference, ours, serverPart)},
		{file: "no-op-start-local.svg", title: "Start that changes nothing, database on the same machine", across: size, lines: overSize(noOpStart, 0, reference, ours, limit)},
		{file: "latency.svg", title: "First start of 100 providers", across: "ms to the database and back", lines: overLatency(firstStart, 100, reference, ours, serverPart), narrow: true},
		{file: "parse.svg", title: "From the environment to a Config", across: size, lines: overSize(parse, 0, caarlos, ours, lookFirst, lookOnly)},
	}
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func (p picture) draw(dir string) error {
	plot.DefaultFont = font.Font{Typeface: "Liberation", Variant: "Sans"}
	chart := plot.New()
	chart.BackgroundColor = nil // whatever the page has
	chart.Title.Text, chart.X.Label.Text, chart.Y.Label.Text = p.title, p.across, "ms"
	chart.Title.TextStyle.Color = grey
	chart.Title.TextStyle.Font.Size, chart.Title.Padding = vg.Points(13), vg.Points(8)
	for _, axis := range []*plot.Axis{&chart.X, &chart.Y} {
		axis.Color, axis.Tick.Color = grey, grey
		axis.Label.TextStyle.Color, axis.Tick.Label.Color = grey, grey
		axis.Label.TextStyle.Font.Size, axis.Tick.Label.Font.Size = vg.Points(11), vg.Points(10)
		axis.Scale, axis.Tick.Marker = plot.LogScale{}, decades{}
	}
	if p.narrow {
		chart.X.Scale, chart.X.Tick.Marker = plot.LinearScale{}, plot.DefaultTicks{}
	}
	grid := plotter.NewGrid()
	grid.Horizontal.Color, grid.Vertical.Color = faint, faint
	chart.Add(grid)
	chart.Legend.Top, chart.Legend.Left = true, true
	chart.Legend.TextStyle.Color, chart.Legend.TextStyle.Font.Size = grey, vg.Points(11)
	chart.Legend.Padding, chart.Legend.XOffs = vg.Points(3), vg.Points(8)
	for _, l := range p.lines {
		if len(l.points) == 0 {
			continue
		}
		drawn, points, err := plotter.NewLinePoints(l.points)
		if err != nil {
			return fmt.Errorf("draw %s: %w", p.file, err)
		}
		style := styles[l.contender]
		drawn.Color, drawn.Width = style.color, vg.Points(2)
		points.Color, points.Shape, points.Radius = style.color, draw.CircleGlyph{}, vg.Points(3)
		if style.dashed {
			drawn.Dashes = []vg.Length{vg.Points(6), vg.Points(4)}
			chart.Add(drawn)
			chart.Legend.Add(style.label, drawn)
			continue
		}
		chart.Add(drawn, points)
		chart.Legend.Add(style.label, drawn, points)
	}
	// Whole decades, so that the lines of the grid frame the picture.
	chart.Y.Min, chart.Y.Max = math.Pow10(int(math.Floor(math.Log10(chart.Y.Min)))), math.Pow10(int(math.Ceil(math.Log10(chart.Y.Max))))

	canvas := vgsvg.NewWith(vgsvg.UseWH(18*vg.Centimeter, 11*vg.Centimeter))
	chart.Draw(draw.New(canvas))
	file, err := os.Create(filepath.Join(dir, p.file))
	if err != nil {
		return err
	}
	if _, err := canvas.WriteTo(file); err != nil {
		file.Close()
		return err
	}
	return file.Close()
}

// decades are the ticks of a log axis, written out.
type decades struct{}

func (decades) Ticks(low, high float64) (ticks []plot.Tick) {
	for power := math.Floor(math.Log10(low)); power <= math.Ceil(math.Log10(high)); power++ {
		value := math.Pow(10, power)
		label := fmt.Sprintf("%g", value)
		if value >= 1 {
			label = thousands(int(math.Round(value)))
		}
		ticks = append(ticks, plot.Tick{Value: value, Label: label})
	}
	return ticks
}
