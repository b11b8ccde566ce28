"""Augmentation: what is drawn, and what it does to an image."""

import numpy as np
import pytest
from PIL import Image

from featstore.encoders import Augment, Preprocess, View
from featstore.errors import UsageError

WHOLE = (0.0, 0.0, 1.0, 1.0)


def test_draws_stay_in_their_ranges_and_depend_on_seed_id_and_view_alone():
    augment = Augment(area=(0.3, 0.8), aspect=1.5, angle=15, brightness=0.2, contrast=0.4)
    views = [augment.draw(0, f"{n}.png", 0) for n in range(500)]
    assert views == [augment.draw(0, f"{n}.png", 0) for n in range(500)]
    assert len(set(views)) == 500
    assert augment.draw(0, "a", 1) != augment.draw(0, "a", 0) != augment.draw(1, "a", 0)
    left, top, right, bottom = np.array([view.box for view in views]).T
    assert (min(left.min(), top.min()) >= 0) & (max(right.max(), bottom.max()) <= 1 + 1e-12)
    area, aspect = (right - left) * (bottom - top), (right - left) / (bottom - top)
    assert (area.min() > 0.25) & (area.max() <= 0.8 + 1e-9) & (area.mean() > 0.5) & (area.mean() < 0.6)
    assert (aspect.min() >= 1 / 1.5 - 1e-9) & (aspect.max() <= 1.5 + 1e-9)
    for values, middle, extent in (
        ([v.angle for v in views], 0, 15),
        ([v.brightness for v in views], 1, 0.2),
        ([v.contrast for v in views], 1, 0.4),
    ):
        assert np.abs(np.array(values) - middle).max() <= extent
        assert np.std(values) == pytest.approx(extent / 3**0.5, rel=0.1)
        assert np.mean(values) == pytest.approx(middle, abs=0.1 * extent + 0.05)
    wild = [Augment(colour=0.3, grey=0.25).draw(0, f"{n}.png", 0) for n in range(500)]
    assert np.abs(np.array([view.colour for view in wild]) - 1).max() <= 0.3
    assert 0.2 < np.mean([view.grey for view in wild]) < 0.3
    assert [view.box for view in wild] == [Augment().draw(0, f"{n}.png", 0).box for n in range(500)]
    assert 0.4 < np.mean([view.flip for view in views]) < 0.6
    assert not any(Augment(flip=False).draw(0, f"{n}", 0).flip for n in range(20))
    with pytest.raises(UsageError, match="area must be"):
        Augment(area=(0.8, 0.3))


def test_a_view_does_what_it_says():
    preprocess = Preprocess(size=4, channels=1, interpolation="nearest")
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    image = Image.fromarray(pixels)

    def seen(**changes):
        view = View(**{"box": WHOLE, "flip": False, "angle": 0.0, "brightness": 1.0, "contrast": 1.0} | changes)
        return preprocess.apply(image, view)[0] * 255

    plain = preprocess.apply(image)[0] * 255
    np.testing.assert_allclose(seen(), plain, atol=1e-4)
    np.testing.assert_allclose(seen(box=(0.5, 0.0, 1.0, 0.5)), pixels[:4, 4:], atol=1e-4)
    np.testing.assert_allclose(seen(box=(0.0, 0.5, 0.5, 1.0), flip=True), pixels[4:, :4][:, ::-1] + 4, atol=1e-4)
    np.testing.assert_allclose(seen(brightness=1.5), plain * 1.5, atol=1e-4)
    np.testing.assert_allclose(seen(contrast=0.5), plain / 2 + plain.mean() / 2, atol=1e-4)
    assert seen(brightness=100.0).max() == 255
    np.testing.assert_allclose(seen(colour=(0.5, 1.0, 2.0), grey=True), plain, atol=1e-4)  # a grey image has no colours
    green = Image.new("RGB", (8, 8), (100, 200, 30))
    plain_view = View(WHOLE, flip=False, angle=0.0, brightness=1.0, contrast=1.0)
    tinted = Preprocess(size=4).apply(green, plain_view._replace(colour=(0.5, 1.0, 2.0)))
    np.testing.assert_allclose(tinted[:, 0, 0] * 255, [50, 200, 60], atol=1e-3)
    without = Preprocess(size=4).apply(green, plain_view._replace(grey=True))
    np.testing.assert_allclose(without * 255, 0.299 * 100 + 0.587 * 200 + 0.114 * 30, atol=1e-3)
    np.testing.assert_allclose(seen(angle=180.0), np.rot90(pixels, 2)[1::2, 1::2], atol=1.01)
    grey = Image.new("RGB", (20, 10), (10, 200, 30))
    turned = Preprocess(size=6).apply(grey, View(WHOLE, flip=False, angle=45.0, brightness=1.0, contrast=1.0))
    np.testing.assert_allclose(turned[:, 0, 0] * 255, [10, 200, 30], atol=1)  # corners take the colour of the border
