"""What drivers draw; the README's pictures are looked at in test_readme."""

from lstm_ae_lib.study import figures


def test_curves_show_what_they_are_given():
    figure = figures.loss_curves([1, 2], {"training": [3e-3, 2e-3]}, {"linear filter": 1e-3})
    assert [list(line.get_ydata()) for line in figure.axes[0].lines] == [[3e-3, 2e-3], [1e-3, 1e-3]]


def test_no_curve_is_left_out():
    figure = figures.loss_curves([1, 2], {str(number): [number, 1.0] for number in (1, 2, 3, 4, 5)}, {})
    assert [line.get_ydata()[0] for line in figure.axes[0].lines] == [1, 2, 3, 4, 5]
