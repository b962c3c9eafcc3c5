from igpt_jax.imagenet import class_names


def test_the_names_are_a_thousand_different_ones():
    names = class_names()
    assert len(names) == 1_000
    assert len({name.lower() for name in names}) == 1_000
    assert all(name == name.strip() and name.isascii() and len(name) <= 30 for name in names)


def test_the_order_is_that_of_published_models():
    # The class ids that the demos of LlamaGen, VAR and DiT ask for.
    known = {
        207: "golden retriever",
        360: "otter",
        387: "lesser panda",
        974: "geyser",
        88: "macaw",
        979: "valley",
        417: "balloon",
        279: "Arctic fox",
        980: "volcano",
        437: "beacon",
        22: "bald eagle",
        562: "fountain",
        0: "tench",
        999: "toilet tissue",
    }
    assert {index: class_names()[index] for index in known} == known


def test_names_that_wordnet_shares_are_told_apart():
    names = class_names()
    assert (names[134], names[517]) == ("crane bird", "crane machine")
    assert (names[638], names[639]) == ("maillot tights", "maillot tank suit")
    assert (names[264], names[474]) == ("Cardigan Welsh corgi", "cardigan")
