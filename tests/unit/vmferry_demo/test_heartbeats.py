"""What is made of a guest's heartbeats."""

import pytest

from vmferry_demo.heartbeats import Line, LineCutter, is_ready, joined, judge, lines_of, parse_beat


def recording(numbers: range | list[int], start_s: float = 0.0, **words: int) -> list[Line]:
    """Beats with these numbers, 10 ms apart on both clocks."""
    said = {"rounds": 0, "corrupt": 0} | words
    return [
        Line(start_s + index / 100, f"B {number} {number * 10} {said['rounds']} {said['corrupt']} {number * 2}")
        for index, number in enumerate(numbers)
    ]


class TestLineCutter:
    def test_a_line_carries_the_time_of_its_first_byte(self) -> None:
        """A line that arrives in pieces is stamped when it began."""
        cutter = LineCutter()
        cutter.feed(b"B 1 10", 1.0)
        cutter.feed(b" 0 0 0\nB 2", 2.0)
        cutter.feed(b" 20 0 0 0\n", 3.0)
        assert cutter.heard() == [Line(1.0, "B 1 10 0 0 0"), Line(2.0, "B 2 20 0 0 0")]

    def test_a_line_without_its_end_is_not_whole(self) -> None:
        """What was heard of an unfinished line is given, and marked."""
        assert lines_of(b"B 1 10 0 0 0\nB 2 2")[-1] == Line(0.0, "B 2 2", whole=False)

    def test_hearing_does_not_consume(self) -> None:
        """A line that was given unfinished is given again when it is whole."""
        cutter = LineCutter()
        cutter.feed(b"B 1", 1.0)
        cutter.heard()
        cutter.feed(b" 10 0 0 0\n", 2.0)
        assert cutter.heard() == [Line(1.0, "B 1 10 0 0 0")]

    @pytest.mark.parametrize("cut", range(1, 25))
    def test_no_cut_changes_what_is_heard(self, cut: int) -> None:
        """Wherever the bytes are cut in two, the lines are the same."""
        log = b"B 1 10 0 0 0\r\nB 2 20 0 0 0\n"
        cutter = LineCutter()
        cutter.feed(log[:cut], 0.0)
        cutter.feed(log[cut:], 0.0)
        assert cutter.heard() == lines_of(log)

    def test_empty_lines_are_not_heard(self) -> None:
        """The line feed that ends the firmware's babble leaves no line of its own; the first may end another host's line."""
        assert lines_of(b"SeaBIOS\n\nREADY pages=1\n") == [Line(0.0, "SeaBIOS"), Line(0.0, "READY pages=1")]
        assert lines_of(b"\n\nREADY pages=1\n", 3.0) == [Line(3.0, ""), Line(3.0, "READY pages=1")]


class TestParseBeat:
    def test_a_beat_says_five_numbers(self) -> None:
        """All of a beat's numbers come through, with time and place."""
        beat = parse_beat(Line(4.5, "B 7 70 3 1 900"), recording=2)
        assert beat == (7, 70, 3, 1, 900, 4.5, 2)

    @pytest.mark.parametrize("text", ["B 7 70 3 1", "B 7 70 3 1 9 9", "xB 7 70 3 1 9", "B 7 70 3 1 9x", ""])
    def test_anything_else_is_no_beat(self, text: str) -> None:
        """A line with a number too few or a letter too many is not taken for a beat."""
        assert parse_beat(Line(0.0, text)) is None

    def test_an_unfinished_beat_is_no_beat(self) -> None:
        """A last number may lack digits, so that a line without its end counts for nothing."""
        assert parse_beat(Line(0.0, "B 7 70 3 1 9", whole=False)) is None


class TestSplitLine:
    @pytest.mark.parametrize("cut", range(14))
    def test_a_line_split_by_the_hand_over_is_one_beat(self, cut: int) -> None:
        """Its start at the source and its end at the destination are joined, wherever it was cut."""
        middle = b"B 2 20 0 0 4\n"
        source, destination = b"B 1 10 0 0 2\n" + middle[:cut], middle[cut:] + b"B 3 30 0 0 6\n"
        judgement = judge([lines_of(source), lines_of(destination)])
        assert [beat.number for beat in judgement.beats] == [1, 2, 3]
        assert judgement.faults() == []

    def test_a_joined_line_belongs_to_the_host_that_heard_its_start(self) -> None:
        """It keeps the source's time, so that the pause counts from it."""
        source = [*recording([1]), Line(0.01, "B 2 2", whole=False)]
        destination = [Line(0.5, "0 0 0 4"), *recording([3], start_s=0.51)]
        assert judge([source, destination]).pauses_ms == pytest.approx((490.0,))

    def test_a_host_that_heard_nothing_is_passed_over(self) -> None:
        """The other half of a split line is looked for at the next host that heard anything."""
        halves = [[Line(0.0, "B 1 1", whole=False)], [], [Line(1.0, "0 0 0 0")]]
        assert joined(halves) == [[Line(0.0, "B 1 10 0 0 0")], [], []]

    def test_an_unfinished_last_line_is_no_fault(self) -> None:
        """A recording may end inside a line: nobody knows yet what it will be."""
        assert judge([[*recording([1, 2]), Line(0.02, "B 3 3", whole=False)]]).faults() == []


class TestJudge:
    def test_a_guest_that_did_not_move_has_no_pause(self) -> None:
        """One recording gives no hand-over and no fault."""
        judgement = judge([recording(range(100))])
        assert (judgement.faults(), judgement.pauses_ms) == ([], ())

    def test_the_pause_is_the_gap_less_the_period(self) -> None:
        """A guest that is silent for 110 ms with a period of 10 ms has stood for 100 ms."""
        judgement = judge([recording([0, 1]), recording([2, 3], start_s=0.12)])
        assert judgement.pauses_ms == pytest.approx((100.0,))
        assert judgement.hand_overs[0].clock_step_ms == 0

    def test_each_hop_has_its_pause(self) -> None:
        """Three hosts give two pauses, in order."""
        hosts = [recording([0, 1]), recording([2, 3], start_s=0.12), recording([4], start_s=0.34)]
        assert judge(hosts).pauses_ms == pytest.approx((100.0, 200.0))

    def test_a_destination_that_never_ran_the_guest_is_no_hand_over(self) -> None:
        """A failed migration leaves an empty recording and no pause."""
        assert judge([recording([0, 1]), []]).pauses_ms == ()

    def test_a_number_left_out_is_missing(self) -> None:
        """Output that was lost at the hand-over shows."""
        judgement = judge([recording([0, 1]), recording([4], start_s=0.1)])
        assert judgement.missing == (2, 3)
        assert judgement.faults() == ["2 beats missing: (2, 3)"]

    def test_a_number_said_twice_is_doubled(self) -> None:
        """Two copies that run say the same numbers."""
        judgement = judge([recording([0, 1, 2]), recording([2, 3], start_s=0.1)])
        assert judgement.doubled == (2,)
        assert judgement.missing == ()

    def test_a_number_after_a_greater_one_is_out_of_order(self) -> None:
        """Numbers only rise while one guest runs."""
        assert judge([recording([0, 2, 1, 3])]).out_of_order == (1,)

    def test_a_guest_that_started_anew_is_seen(self) -> None:
        """A reset guest counts from 0 again, and its clock goes back."""
        judgement = judge([recording([0, 1, 2]), recording([0, 1, 2], start_s=0.1)])
        assert judgement.doubled == (0, 1, 2)
        assert judgement.clock_went_back

    def test_numbers_before_the_first_heard_are_not_missed(self) -> None:
        """Who begins to listen later does not miss what was said before."""
        assert judge([recording([50, 51])]).missing == ()

    def test_corrupt_pages_are_a_fault(self) -> None:
        """The guest's own count and its complaint both show."""
        complaint = "CORRUPT page=3 expected=2 found=1 word=0"
        judgement = judge([[*recording([0]), Line(0.005, complaint), *recording([1], corrupt=1)]])
        assert judgement.corrupt_pages == 1
        assert judgement.complaints == (complaint,)
        assert len(judgement.faults()) == 2

    def test_silence_is_a_fault(self) -> None:
        """Nothing heard is not the same as nothing wrong."""
        assert judge([[], []]).faults() == ["no beat was heard"]

    def test_the_firmware_may_say_what_it_likes(self) -> None:
        """Lines before the guest's first word are not garbled."""
        assert judge([[Line(0.0, "SeaBIOS"), Line(0.0, "READY pages=1"), *recording([0])]]).garbled == ()

    def test_a_strange_line_among_beats_is_garbled(self) -> None:
        """Bytes that were lost inside a line show."""
        assert judge([[*recording([0]), Line(0.0, "B 1 1"), *recording([2])]]).garbled == ("B 1 1",)

    def test_a_round_begun_at_the_source_does_not_prove_the_destination(self) -> None:
        """Of the rounds that ended at the last host, the first was begun before."""
        hosts = [recording([0], rounds=4), [*recording([1], 0.1, rounds=4), *recording([2], 0.2, rounds=6)]]
        assert judge(hosts).rounds_since_hand_over == 1

    def test_the_guests_clock_may_not_go_back(self) -> None:
        """A destination that restores an older clock shows, though every beat is there."""
        judgement = judge([[Line(0.0, "B 0 500 0 0 0")], [Line(0.1, "B 1 400 0 0 0")]])
        assert judgement.hand_overs[0].clock_step_ms == -110
        assert "the guest's clock went back" in judgement.faults()


def test_a_guest_is_ready_when_it_says_so() -> None:
    """Neither the firmware's babble nor half a line is a READY."""
    assert not is_ready(lines_of(b"SeaBIOS\nREADY pages=1"))
    assert is_ready(lines_of(b"SeaBIOS\nREADY pages=1\n"))
