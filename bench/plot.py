"""The picture of the results: speeds of the peers relative to larder's, model by model."""
import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

from models import title
from results import case_title

COLOURS = {"llama.cpp": "#c9803a", "OpenVINO": "#3a7ca5"}


def draw(path, engines, models, ratios):
    """Writes an SVG. `ratios[model][case][peer]` is how many times faster larder is, or `None`."""
    peers = [engine for engine in engines if engine != "larder"]
    pyplot.rcParams.update({"svg.hashsalt": "larder", "svg.fonttype": "none"})
    n_columns = min(2, len(models))
    n_rows = -(-len(models) // n_columns)
    figure, axes = pyplot.subplots(n_rows, n_columns, figsize=(7 * n_columns, 4 * n_rows), squeeze=False)
    for axis in axes.flat[len(models) :]:
        axis.remove()
    for axis, model in zip(axes.flat, models):
        draw_model(axis, model, peers, ratios[model])
    figure.suptitle("How many times faster larder is (line: equally fast)")
    figure.tight_layout()
    figure.savefig(path, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    pyplot.close(figure)


def draw_model(axis, model, peers, ratios):
    cases = list(ratios)
    height = 0.8 / max(len(peers), 1)
    for i, peer in enumerate(peers):
        places = [place + i * height for place in range(len(cases))]
        values = [ratios[case].get(peer) or 0 for case in cases]
        bars = axis.barh(places, values, height, label=peer, color=COLOURS.get(peer))
        axis.bar_label(bars, [f"{value:.2f}" if value else "no number" for value in values], padding=3, fontsize=7)
    axis.axvline(1, color="black", linewidth=0.8)
    labels = [case_title(case).rsplit(",", 1)[0] for case in cases]
    axis.set_yticks([place + 0.4 - height / 2 for place in range(len(cases))], labels, fontsize=8)
    axis.invert_yaxis()
    axis.margins(x=0.12)
    axis.set_title(title(model), fontsize=10)
    axis.legend(fontsize=8)
