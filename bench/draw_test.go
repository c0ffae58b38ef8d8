package bench

import (
	"image/color"
	"math"
	"os"
	"path/filepath"
	"time"

	"github.com/stretchr/testify/require"
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
	faint  = color.NRGBA{0x84, 0x88, 0x8e, 0x40}
	blue   = color.RGBA{0x2f, 0x81, 0xf7, 0xff}
	orange = color.RGBA{0xdb, 0x7b, 0x2b, 0xff}
	green  = color.RGBA{0x3f, 0xa0, 0x5a, 0xff}
)

// A curve is how one way is drawn. A limit is dashed.
type curve struct {
	by, label string
	color     color.Color
	limit     bool
}

// A picture is a file and what is to be seen in it: an operation over sizes, or over latencies.
type picture struct {
	file, title, operation string
	latency                time.Duration
	n                      int // 0 for all sizes
	curves                 []curve
}

var pictures = func() []picture {
	us, rows := curve{ours, "aiseed", blue, false}, curve{reference, "row at a time", orange, false}
	server := []curve{rows, us, {serverPart, "the limit: the server's part", green, true}}
	read := []curve{rows, us, {joinedRead, "the limit: the bare read", green, true}}
	parsers := []curve{{caarlos, "caarlos0/env", orange, false}, us, {look, "the limit: look, and keep the first of each name", green, true}}
	return []picture{
		{"first-start.svg", "First start, 1 ms to the database", firstStart, time.Millisecond, 0, server},
		{"no-op-start.svg", "Start that changes nothing, 1 ms to the database", noOpStart, time.Millisecond, 0, read},
		{"first-start-local.svg", "First start, database on the same machine", firstStart, 0, 0, server},
		{"no-op-start-local.svg", "Start that changes nothing, database on the same machine", noOpStart, 0, 0, read},
		{"latency.svg", "First start of 100 providers", firstStart, 0, 100, server},
		{"parse.svg", "From the environment to a Config", parse, 0, 0, parsers},
	}
}()

// points are the medians in milliseconds.
func (s *suite) points(p picture, by string) (points plotter.XYs) {
	for _, n := range s.sizes {
		for _, latency := range s.latencies {
			at, x := key{p.operation, by, n, latency}, float64(n)
			if p.n > 0 {
				x = latency.Seconds() * 1000
			}
			if len(s.samples[at]) > 0 && (n == p.n || p.n == 0 && latency == p.latency) {
				points = append(points, plotter.XY{X: x, Y: s.median(at).Seconds() * 1000})
			}
		}
	}
	return points
}

func (s *suite) draw(p picture, dir string) {
	plot.DefaultFont = font.Font{Typeface: "Liberation", Variant: "Sans"}
	chart := plot.New()
	chart.BackgroundColor = nil // whatever the page has
	chart.Title.Text, chart.X.Label.Text, chart.Y.Label.Text = p.title, "providers, with 3 keys each", "ms"
	chart.Title.TextStyle.Color, chart.Title.TextStyle.Font.Size, chart.Title.Padding = grey, 13, 8
	for _, axis := range []*plot.Axis{&chart.X, &chart.Y} {
		axis.Color, axis.Tick.Color, axis.Label.TextStyle.Color, axis.Tick.Label.Color = grey, grey, grey, grey
		axis.Scale, axis.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	}
	if p.n > 0 {
		chart.X.Label.Text, chart.X.Scale, chart.X.Tick.Marker = "ms to the database and back", plot.LinearScale{}, plot.DefaultTicks{}
	}
	grid := plotter.NewGrid()
	grid.Horizontal.Color, grid.Vertical.Color = faint, faint
	chart.Add(grid)
	chart.Legend.Top, chart.Legend.Left, chart.Legend.Padding, chart.Legend.XOffs = true, true, 3, 8
	chart.Legend.YOffs, chart.Legend.TextStyle.Color = -6, grey
	for _, c := range p.curves {
		line, points, err := plotter.NewLinePoints(s.points(p, c.by))
		require.NoError(s, err, "draw %s of %s", p.file, c.by)
		line.Color, line.Width = c.color, 2
		points.Color, points.Shape, points.Radius = c.color, draw.CircleGlyph{}, 3
		if c.limit {
			line.Dashes, points.Radius = []vg.Length{6, 4}, 0
		}
		chart.Add(line, points)
		chart.Legend.Add(c.label, line, points)
	}
	// Whole decades, so that the lines of the grid frame the picture.
	chart.Y.Min, chart.Y.Max = math.Pow10(int(math.Floor(math.Log10(chart.Y.Min)))), math.Pow10(int(math.Ceil(math.Log10(chart.Y.Max))))
	canvas := vgsvg.NewWith(vgsvg.UseWH(18*vg.Centimeter, 11*vg.Centimeter))
	chart.Draw(draw.New(canvas))
	file, err := os.Create(filepath.Join(dir, p.file))
	require.NoError(s, err)
	_, err = canvas.WriteTo(file)
	require.NoError(s, err)
	require.NoError(s, file.Close())
}
