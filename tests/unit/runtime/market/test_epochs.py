def test_smoke(market):
    for _ in range(40):
        market.next_block()
    print(market.row(1, 0).paid)
