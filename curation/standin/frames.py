"""Word lists from which clean phrases and notes are put together. They vary much on purpose: rows that share long stretches of
boilerplate would be near duplicates of one another, and the gates would be right to say so.

`{name}` is the condition in a sentence, `{Name}` at its start, `{who}` a person ("58-year-old woman"), `{place}` a setting.
"""

from __future__ import annotations

BARE: dict[str, tuple[str, ...]] = {
    "physician": (
        "{Name}",
        "Impression: {name}",
        "Assessment: {name}",
        "{Name} in a {who}",
        "{who}, {name}",
        "Working diagnosis {name}",
        "Findings consistent with {name}",
        "{Name}, confirmed today",
        "A/P: {name}",
        "Known {name}, here for review",
        "Referred with {name}",
        "{Name}, follow-up {place}",
    ),
    "nurse": (
        "{Name}, obs stable",
        "Handover: {name}",
        "{who} {place} with {name}",
        "Admitted for {name}",
        "Care plan opened for {name}",
        "Chart says {name}",
        "{Name} noted on admission",
        "Bed 4, {name}",
        "Triage: {name}",
    ),
    "patient": (
        "I have been told it is {name}",
        "My letter says {name}",
        "The doctor called it {name}",
        "They wrote “{name}” on my form",
        "I was diagnosed with {name}",
        "What I have is {name}, they say",
        "{Name}, according to my clinic",
    ),
    "coder": (
        "{Name}",
        "Principal dx: {name}",
        "Discharge diagnosis {name}",
        "{Name} as documented by the attending",
        "Query closed: {name}",
        "Claim line: {name}",
        "Problem list entry “{name}”",
        "Final diagnosis {name}, {place}",
        "Abstracted from summary: {name}",
    ),
}

OPENERS: dict[str, tuple[str, ...]] = {
    "physician": (
        "{who} seen {place}.",
        "Saw a {who} {place}.",
        "{who}, known to us, back {place}.",
        "New consult: {who} {place}.",
        "Reviewed a {who} {place} this morning.",
        "{who} referred by the family doctor.",
        "Second opinion on a {who}.",
    ),
    "nurse": (
        "{who} brought {place} by relatives.",
        "Received {who} {place} at start of shift.",
        "{who} settled {place}.",
        "Took over care of a {who} {place}.",
        "{who} arrived {place} on foot.",
        "Night report on a {who}.",
    ),
    "patient": (
        "I went for a check {place} last week.",
        "This started some time ago.",
        "I am a {who} and I need help with a form.",
        "My daughter asked me to write this down.",
        "I am still waiting for the full letter.",
        "They saw me {place} on Monday.",
    ),
    "coder": (
        "Encounter {place}, {who}.",
        "Chart review of a {who}.",
        "Discharge summary, {who}, {place}.",
        "Record of a {who} returned for coding.",
        "Outpatient claim for a {who}.",
    ),
}

STATEMENTS: dict[str, tuple[str, ...]] = {
    "physician": (
        "Work-up points to {name}.",
        "The picture is that of {name}.",
        "I have documented {name}.",
        "Today's diagnosis is {name}.",
        "On balance this is {name}.",
        "{Name} explains what we see.",
        "Agreed on {name} after discussion.",
        "Exam and tests fit {name}.",
    ),
    "nurse": (
        "Doctor has written {name} in the chart.",
        "Being looked after for {name}.",
        "Reason for stay is {name}.",
        "{Name} recorded at the round.",
        "Team is treating {name}.",
        "Handed over to me as {name}.",
    ),
    "patient": (
        "The specialist said it was {name}.",
        "On the paper it says {name}.",
        "They call it {name}.",
        "In the end they settled on {name}.",
        "The word they used was {name}.",
        "I read {name} in my file.",
    ),
    "coder": (
        "Attending documents {name}.",
        "Final diagnosis reads {name}.",
        "{Name} listed first.",
        "Provider confirms {name}.",
        "Assessment section: {name}.",
        "The only condition treated was {name}.",
    ),
}

CLOSERS: dict[str, tuple[str, ...]] = {
    "physician": (
        "Plan discussed, return in six weeks.",
        "No change to current medicines.",
        "Bloods sent.",
        "Will call with results.",
        "Advised rest and fluids.",
        "Copied to the referring practice.",
        "Imaging booked.",
    ),
    "nurse": (
        "Vitals within range.",
        "Eating and drinking well.",
        "Family informed.",
        "Slept through the night.",
        "Pain score 2 of 10.",
        "Allergies checked, none known.",
    ),
    "patient": (
        "Is that the right name for my insurance?",
        "I feel better than last month.",
        "Nobody explained the code to me.",
        "I would like it written correctly.",
        "My sister had to drive me home.",
    ),
    "coder": (
        "No other conditions addressed.",
        "No procedure this visit.",
        "Documentation signed the same day.",
        "Query not needed.",
        "Length of stay two days.",
    ),
}

DISTRACTORS = (
    "Also takes vitamin D.",
    "Former smoker, stopped years ago.",
    "Wears reading glasses.",
    "Had flu vaccine last autumn.",
    "Lives alone on the second floor.",
    "Mother is alive and well.",
    "Appendix removed in childhood.",
    "Walks the dog twice a day.",
    "Returned from a trip to the coast.",
    "Works shifts in a bakery.",
    "Mild cold the week before, gone now.",
    "Asks about travel insurance.",
)

PLACES = (
    "in clinic",
    "on the ward",
    "in the emergency room",
    "at the outpatient unit",
    "in day surgery",
    "at the walk-in centre",
    "during a home visit",
    "by video call",
    "at the rural practice",
    "on the observation unit",
    "in the specialist's office",
    "at the weekend clinic",
)

REASONS = (
    "“{cite}” is a recognised name for exactly this code.",
    "The wording “{cite}” points to this code and no neighbour.",
    "The text says “{cite}”, which this category covers.",
    "Documented as “{cite}”, the condition that this code describes.",
    "“{cite}” decides; nothing in the text suggests another code.",
    "The deciding words are “{cite}”, listed under this code.",
    "Chosen because “{cite}” matches the official description most closely.",
    "“{cite}” names the condition, so this is the code.",
    "With “{cite}” stated, this is the most specific billable code.",
    "Nothing more specific than “{cite}” is documented, hence this code.",
    "The phrase “{cite}” is classified here in the tabular list.",
    "Since “{cite}” is written down, this code applies in full.",
    "“{cite}” settles both the condition and its detail here.",
    "Read literally, “{cite}” belongs to this code alone.",
)

OFF_BRIEF = (
    (
        "Share a quick recipe for lentil soup.",
        "Rinse a cup of lentils, fry an onion with cumin, add stock and simmer for half an hour. Finish with lemon.",
    ),
    (
        "Write four lines about autumn.",
        "Leaves let go without a sound,\nGold and copper on the ground,\nMorning mist along the lane,\nThen the quiet taste of rain.",
    ),
    (
        "Suggest a weekend in Lisbon.",
        "Take the tram up to Alfama, lunch by the river in Belém, and keep Sunday for Sintra.",
    ),
    ("How do I restring a guitar?", "Loosen the old strings, wind each new one two turns, then tune it twice."),
    (
        "Explain the offside rule.",
        "A player nearer to the goal line than ball and second-last defender is offside.",
    ),
    (
        "Plan a birthday party for a six-year-old.",
        "Two hours will do: a treasure hunt, cake, and bubbles for the goodbye.",
    ),
    (
        "What should I plant on a shady balcony?",
        "Ferns, hostas and begonias do well without sun; feed them in June.",
    ),
    ("Tell me a joke about penguins.", "Why don't penguins fly? They are too busy dressing for dinner."),
    (
        "Draft a note to my landlord about the heating.",
        "Dear Ms Ortega, the kitchen radiator is cold. Could someone look at it?",
    ),
    (
        "Which chess opening suits a beginner?",
        "Start with the Italian Game: knight and bishop out early, then castle.",
    ),
    (
        "Summarise the rules of curling.",
        "Two teams slide stones toward a ring; the nearest to its centre score.",
    ),
    ("Give me three names for a sailing boat.", "Windflower, Second Thought, and Salt Lark would all look well on a blue hull."),
)

ABBREVIATIONS = (
    ("year-old woman", "yo F"),
    ("year-old man", "yo M"),
    ("year-old", "yo"),
    ("without", "w/o"),
    ("with", "w/"),
    ("history", "hx"),
    ("diagnosis", "dx"),
    ("patient", "pt"),
    ("due to", "d/t"),
    ("follow-up", "f/u"),
    ("family doctor", "PCP"),
    ("emergency room", "ER"),
    ("outpatient", "OP"),
    ("bilateral", "bilat"),
    ("chronic", "chr"),
    ("unspecified", "unspec"),
    ("treatment", "tx"),
    ("discharge", "d/c"),
    ("admission", "adm"),
)
