"""Whole training stories of bAbI v1.2 as quoted in public repositories (bAbI data: Facebook, CC BY 3.0)."""

QA2 = """\
1 Mary moved to the bathroom.
2 Sandra journeyed to the bedroom.
3 Mary got the football there.
4 John went to the kitchen.
5 Mary went back to the kitchen.
6 Mary went back to the garden.
7 Where is the football? \tgarden\t3 6
8 Sandra went back to the office.
9 John moved to the office.
10 Sandra journeyed to the hallway.
11 Daniel went back to the kitchen.
12 Mary dropped the football.
13 John got the milk there.
14 Where is the football? \tgarden\t12 6
15 Mary took the football there.
16 Sandra picked up the apple there.
17 Mary travelled to the hallway.
18 John journeyed to the kitchen.
19 Where is the football? \thallway\t15 17
20 John moved to the hallway.
21 Sandra left the apple.
22 Where is the apple? \thallway\t21 10
23 Mary got the apple there.
24 John travelled to the garden.
25 John went back to the hallway.
26 John went back to the bedroom.
27 Mary journeyed to the bedroom.
28 John journeyed to the kitchen.
29 John left the milk.
30 Mary left the apple.
31 Where is the milk? \tkitchen\t29 28
1 Daniel went to the kitchen.
2 Daniel journeyed to the hallway.
3 Mary went back to the garden.
4 Daniel picked up the apple there.
5 Sandra went to the office.
6 Sandra travelled to the bedroom.
7 Mary got the football there.
8 Sandra grabbed the milk there.
9 Mary left the football.
10 Daniel left the apple.
11 Where is the football? \tgarden\t9 3
12 Daniel got the apple there.
13 Sandra dropped the milk.
14 Where is the milk? \tbedroom\t13 6
15 Mary picked up the football there.
16 John moved to the bathroom.
17 Where is the milk? \tbedroom\t13 6
18 Mary moved to the bedroom.
19 Sandra went to the garden.
20 Where is the milk? \tbedroom\t13 6
21 Daniel discarded the apple.
22 Daniel went to the bathroom.
23 Where is the apple? \thallway\t21 2
"""
QA3 = """\
1 Mary got the milk.
2 John moved to the bedroom.
3 Daniel journeyed to the office.
4 John grabbed the apple there.
5 John got the football.
6 John journeyed to the garden.
7 Mary left the milk.
8 John left the football.
9 Daniel moved to the garden.
10 Daniel grabbed the football.
11 Mary moved to the hallway.
12 Mary went to the kitchen.
13 John put down the apple there.
14 John picked up the apple.
15 Sandra moved to the hallway.
16 Daniel left the football there.
17 Daniel took the football.
18 John travelled to the kitchen.
19 Daniel dropped the football.
20 John dropped the apple.
21 John grabbed the apple.
22 John went to the office.
23 Sandra went back to the bedroom.
24 Sandra took the milk.
25 John journeyed to the bathroom.
26 John travelled to the office.
27 Sandra left the milk.
28 Mary went to the bedroom.
29 Mary moved to the office.
30 John travelled to the hallway.
31 Sandra moved to the garden.
32 Mary moved to the kitchen.
33 Daniel took the football.
34 Mary journeyed to the bedroom.
35 Mary grabbed the milk there.
36 Mary discarded the milk.
37 John went to the garden.
38 John discarded the apple there.
39 Where was the apple before the bathroom? \toffice\t38 25 22
40 Sandra travelled to the bedroom.
41 Daniel moved to the bathroom.
42 Where was the apple before the hallway? \toffice\t38 30 26
43 Sandra got the milk.
44 Daniel travelled to the garden.
45 Where was the apple before the hallway? \toffice\t38 30 26
46 Sandra went back to the bathroom.
47 Daniel took the apple there.
48 Mary went back to the hallway.
49 Daniel went to the hallway.
50 Sandra went to the kitchen.
51 Mary journeyed to the bedroom.
52 Sandra journeyed to the hallway.
53 Daniel put down the apple.
54 Daniel put down the football there.
55 Sandra journeyed to the garden.
56 Where was the football before the garden? \tbathroom\t54 44 41
57 Mary travelled to the office.
58 Sandra dropped the milk.
59 Where was the football before the garden? \tbathroom\t54 44 41
"""
QA5 = """\
1 Bill travelled to the office.
2 Bill picked up the football there.
3 Bill went to the bedroom.
4 Bill gave the football to Fred.
5 What did Bill give to Fred? \tfootball\t4
6 Fred handed the football to Bill.
7 Jeff went back to the office.
8 Who received the football? \tBill\t6
9 Bill travelled to the office.
10 Bill got the milk there.
11 Who received the football? \tBill\t6
12 Fred travelled to the garden.
13 Fred went to the hallway.
14 Bill journeyed to the bedroom.
15 Jeff moved to the hallway.
16 Jeff journeyed to the bathroom.
17 Bill journeyed to the office.
18 Fred travelled to the bathroom.
19 Mary journeyed to the kitchen.
20 Jeff took the apple there.
21 Jeff gave the apple to Fred.
22 Who did Jeff give the apple to? \tFred\t21
23 Bill went back to the bathroom.
24 Bill left the milk.
25 Who received the apple? \tFred\t21
"""
PUBLIC = {"qa2": QA2, "qa3": QA3, "qa5": QA5}
