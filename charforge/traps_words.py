"""Words and phrases by which charforge/traps.py judges: what is later, what is of old, how people speak of their death.

English only. The lists come from what is generally known of things, dates and speech; no list is of one character. Patterns are tried
on pieces of at most 600 characters and have bounded gaps, so that no text makes them slow.
"""

from __future__ import annotations

import re

# --- Things and their years ------------------------------------------------------------------------------------------

DATED = """
    1350 gunpowder cannon musket pistol gun bullet; 1450 gutenberg printer typeset; 1492 america american columbus tobacco potato tomato maize cocoa chocolate turkey;
    1517 luther lutheran protestant calvin; 1543 copernicus copernican; 1590 shakespeare hamlet; 1600 coffee tea newspaper journalist headline galileo kepler telescope microscope descartes newton;
    1650 barometer pendulum banknote; 1700 steam-engine piano pianoforte; 1752 lightning-rod; 1770 australia australian sydney canberra;
    1776 washington; 1783 balloonist; 1790 guillotine napoleon jenner; 1798 vaccine vaccination vaccinate vaccinated; 1804 locomotive; 1825 railway railroad;
    1830 bus omnibus train sunglasses; 1838 telegram telegraph; 1839 photograph photography photo photographer camera; 1842 dinosaur; 1845 anaesthetic chloroform;
    1848 marx marxism communism communist; 1859 darwin darwinism evolution; 1861 lincoln; 1863 subway; 1865 antiseptic; 1868 bicycle bike typewriter cyclist; 1870 wagner brahms;
    1876 telephone phone edison; 1877 phonograph gramophone microphone; 1880 refrigerator fridge lightbulb bulb watt kilowatt volt battery skyscraper; 1885 automobile motorcar motorbike motorcycle;
    1886 coca-cola; 1895 cinema film movie x-ray hollywood actress; 1897 electron radioactivity; 1900 radio loudspeaker quantum freud vacuum-cleaner ego superego;
    1901 nobel; 1903 aeroplane airplane aircraft airport airline helicopter zeppelin pilot; 1905 relativity einstein spacetime; 1907 taxi plastic; 1912 titanic;
    1914 tank trench; 1915 jazz headphone; 1917 soviet stalin lenin bolshevik; 1920 robot sensor nazi hitler mussolini psychoanalysis psychoanalyst; 1925 kilogram television tv broadcast vitamin;
    1928 penicillin antibiotic fleming; 1930 spacecraft astronaut cosmonaut rocket supermarket; 1940 churchill roosevelt guderian blitz; 1941 holocaust auschwitz;
    1945 computer programmer hiroshima nagasaki nuclear microwave; 1947 transistor; 1950 video software programming disco elvis sinatra; 1953 dna genome genetic genetics gene;
    1955 rock'n'roll tesla; 1957 nasa sputnik satellite; 1961 gagarin; 1963 beatles kennedy; 1965 microchip silicon; 1969 armstrong apollo; 1971 email e-mail; 1977 voyager; 1979 hip-hop hiphop; 1980 console handheld gamer;
    1983 internet laptop smartphone cellphone charger; 1985 upload download online wi-fi wifi spreadsheet debug; 1986 chernobyl;
    1990 hubble website youtube google facebook instagram netflix spotify wikipedia iphone i-phone voip chatbot selfie podcast app emoji hashtag blog vlog twitter tweet tiktok
    amazon microsoft bitcoin cryptocurrency gps python javascript browser cyber drone vr username password screenshot livestream influencer uber covid brexit zoom kasparov ev electric-car
"""

LATER = (
    r"(?:world wars?|first world war|second world war|cold war|european union|united nations|united states|electric (?:light|lamp|bulb|car|guitar|motor|kettle|toothbrush|power)"
    r"|charging station|power (?:station|plant|outlet)|social media|search engine|video games?|space (?:station|ship|shuttle|telescope)|hip hop|world cup|washing machine|air[- ]condition\w+"
    r"|artificial intelligence|machine learning|language model|programming language|climate change|global warming|mobile phones?|credit cards?|atomic bombs?|credit score|full power|big bang|black holes?|solar panels?"
    r"|traffic (?:lights?|jams?)|rock (?:music|band)|pop (?:music|star|song)|followers|sports pages|electoral college|prime minister|opinion polls?|the polls|on a screen|the screen|computer (?:program|science)\w*|first-class lounge)"
)
"""Things of two words and of today's talk. They count for persons who died before 1850."""

PLAIN = frozenset(
    "light music recorded world war motor space other electric electricity gas heating sun station machine printing printed press city state".split()  # noqa: SIM905
)
"""Words in the names of unknown things that are known themselves: `electric light` is unknown, light is not."""

OLD = re.compile(
    r"\b(?:candles?|tallow|torch(?:es)?|lanterns?|oil lamps?|whale oil|hearth|horses?|horseback|hooves|hoof|mares?|mules?|donkeys?|oxen|ox|coach(?:es|man)?|carriages?|carts?|waggons?|wagons?|chariots?|saddles?|stirrups?|reins"
    r"|oars?|galleys?|quills?|goose|feathers?|ink|inkwell|parchment|vellum|papyrus|scrolls?|wax tablets?|tablets?|scribes?|messengers?|couriers?|heralds?|runners?|seals?|wine|ale|mead|vinegar|pease|beans|turnips|cabbage|eels?|barley|porridge|honey"
    r"|twigs?|herbs?|salves?|leech(?:es)?|poultices?|apothecary|anvil|forge|bellows|horseshoes?|nails|swords?|spears?|shields?|javelins?|arrows?|bows?|legions?|cohorts?|siege|ditches|stakes|catapults?|the senate|consuls?|tribunes?"
    r"|abbot|abbess|prioress|monks?|nuns?|convent|cloister|psalms?|psalter|vespers|compline|prime|matins|pilgrims?|dragons?|parson|curate|plantation|overseers?|the swamp|the north star|gods?|goddess|zeus|jupiter|jove|muses?"
    r"|lyres?|harps?|lutes?|fiddles?|spinet|muslin|bonnets?|barouche|curricle|sundials?|hourglass|astrolabe|quadrant|temples?|oracles?|cisterns?|moat|drawbridge|smithy|thatch|loom|spindle|needle|plough|scythe|bunsen|slates?|vase"
    r"|beer|(?:olive|wine) press|cards|columns|flint|charcoal|embers|bread and|by hand|on foot|my own (?:feet|legs|two feet|hands))\b",
    re.IGNORECASE,
)
"""Things of the world before machines: who speaks of them only, after a question about something else, has changed the subject."""

COMMON = frozenset(
    """
    house home read morning evening night play player cook brush teeth wear drive prefer favourite favorite find truth feel land moon language best better worst
    machine brother mother father sister friend month name bear capital president opinion view side bible game food letter theatre travel live work write
    enjoy often fast large bright cost pay own show buy eat drink hear listen watch look learn help need mind judge believe understand explain tell result
    today day week last first new old king queen country people world city street train station person woman child room table hand water air fire earth sky sun
    star planet song music book song war army weapon law right rule church school master doctor medicine ill warm cold hot favour surprised sort kind
    happen happened mean call called answer question question add point press soul spectacle degree university post space report report star rate choose
    """.split()  # noqa: SIM905
)
"""Words of a question that are no sign of knowing the thing when an answer has them."""

# --- Not knowing -----------------------------------------------------------------------------------------------------

IGNORANCE_MORE = (
    r"\b(?:you|thou) (?:lose|lost|confound|bewilder|baffle|perplex|astonish|amaze) me\b|\bcannot (?:place|picture|follow|fathom|make (?:head|out|anything))\b|\bi know only\b|\bof (?:that|this|it|such|another|others|him|her)\b[^.]{0,30}\b(?:nothing|no|never)\b"
    r"|\byou must be thinking of\b|\byou (?:have been|are) (?:listening|dreaming|raving|jesting|joking|mocking)\b|\byou (?:mock|tease)\b|\byou will have to (?:describe|explain|tell|show)\b|\bask(?:ing)? you to (?:repeat|explain|say)\b"
    r"|\bif it is\b[^.]{0,40}\byou mean\b|\bif you mean\b|\byou speak of\b|\byou say\b|\bis that what you\b|\bwhat mean you\b|\bmy (?:ignorance|confusion|bewilderment)\b|\bperplex\w*|\bbaffl\w+|\bbewilder\w*"
    r"|\b(?:the|that|your|this) (?:word|name|term|phrase|expression|title)s?\b[^.]{0,40}\b(?:not|no|nothing|strange|odd|queer|foreign|new|escapes?|only|unknown|never|rings?)\b|\bsays only\b|\bhas not come\b|\bnobody has told\b|\bno ?(?:body|one) (?:has )?(?:told|spoken|mentioned)\b"
    r"|\bnot (?:a )?(?:\w+ )?(?:word|name|term|thing|place|man) (?:that )?(?:i|we|known)\b|\bi (?:can|could) make nothing\b|\bpast my (?:understanding|wit|wits)\b|\bbeyond (?:me|my (?:ken|understanding|knowledge|learning|wit|wits))\b"
    r"|\bqueer (?:word|thing|name|talk|notion|question)\b|\bnever in (?:all )?my life\b|\bwhat(?:ever)? (?:manner|sort|kind) of\b|\bsome(?:thing)? (?:impossible|devilry)\b|\bno such\b|\bdoes not grow\b|\bi leave to\b|\bhow should (?:i|a)\b|\bin your (?:country|land|tongue)\b[^.]{0,30}\bperhaps\b"
    r"|\bare you (?:quite )?(?:well|ill|mad|drunk|sure|feverish|in your right mind)\b|\bgone to your head\b|\bhas the (?:wine|sun|heat|fever)\b|\bsounds? (?:to me )?like\b|\bi am at a loss\b|\bno meaning\b|\bescapes me\b|\bhave no knowledge\b|\bi have not (?:met|heard|seen|come|the)\b"
)

# --- The own death ---------------------------------------------------------------------------------------------------

_GONE = (
    r"(?:died|passed (?:away|on|over|from)|perished|expired|drowned|succumbed|departed this|departed from|departed (?:this )?life|left (?:this|the) (?:world|life|earth)|breathed my last|drew my last|gave up the ghost|lay dying|fell dead|starved to death|bled to death"
    r"|went to my (?:grave|rest|maker|death)|met my (?:death|end|maker)|ceased to (?:live|breathe)|came to my end"
    r"|(?:was|were|had been|have been|am|got) (?:\w+ ){0,2}?(?:buried|entombed|interred|reburied|exhumed|laid (?:to rest|in(?:to)? (?:the|my)|beside)|killed|slain|murdered|assassinated|executed|beheaded|hanged|poisoned|stabbed|cut down|burned (?:at|alive|as)|burnt (?:at|alive|as)|put to death|cremated|crucified|canoni[sz]ed|beatified|deified|rehabilitated|taken from this|declared (?:a saint|a god|divine|dead)|mourned|lowered into|dead and (?:gone|buried)|in my (?:grave|coffin|tomb)))"
)
_NOUN = (
    r"(?:death|demise|passing|decease|end on the scaffold|burial|funeral|interment|murder|assassination|execution|suicide|martyrdom|beheading|cremation|canoni[sz]ation|beatification|deification|autopsy|post-mortem|obituar(?:y|ies)|epitaph"
    r"|coffin|grave|graveside|gravestone|tombstone|headstone|tomb|sarcophagus|mausoleum|corpse|dead body|deathbed|death-bed|death mask|heirs?|sole heir|final illness|last illness|last breath|dying breath|dying words|last words|final words"
    r"|(?:last|final) (?:days|hours|moments|weeks|months|years|night))"
)
DIED = re.compile(
    rf"\bi (?:\w+ ){{0,2}}?{_GONE}\b|(?:^\W*(?:because |and |so |then )?)i \w+ [^.]{{0,120}}?\band (?:then )?(?:died|(?:was|were) (?:\w+ )?(?:buried|killed|assassinated|executed|beheaded|hanged|murdered|canoni[sz]ed|laid to rest|burnt|burned))\b|\bi(?: am|'m|'ve been| have been)(?: now| long| already| indeed| quite)* (?:dead|deceased|a dead (?:man|woman)|a historical figure|gone from this)\b"
    r"|\bjust a historical figure\b|\bborn\b[^.]{0,80}\bdied\b|\b(?:killed|murdered|stabbed|assassinated|executed|burned|burnt|buried|beheaded|poisoned|crucified|hanged|entombed|interred|mourned|outlived|survived|canoni[sz]ed|deified|exhumed|cremated) me\b"
    r"|\bme (?:they|he|she) (?:burn(?:t|ed)|buried|killed|hanged|laid)\b|\bhad me (?:declared|proclaimed|deified|buried|canoni[sz]ed|burn\w+)\b|\blaid \w+ (?:\w+ )?beside me\b|\bwhen i was dead\b|\bsucceeded me\b|\bgave me (?:a|the) (?:\w+ )?(?:funeral|burial)\b|\bi (?:rest|lie|sleep|was laid) (?:now )?(?:in|under|beneath|beside)\b[^.]{0,40}\b(?:aisle|nave|vault|crypt|churchyard|graveyard|cemetery|abbey|stone|slab|cathedral|chapel|tomb|ground|earth|grave)\b|\bi lived (?:to be|to the age|until)\b|\bput me (?:to death|in(?:to)? the (?:ground|earth|grave))\b|\b(?:cut|struck|shot|stabbed) me (?:down|dead|to death)\b|\blaid me (?:to rest|out|in|beside|under)\b|\blowered me\b"
    r"|\bclosed my eyes\b|\bover my (?:dead )?(?:body|corpse|bier|coffin)\b|\b(?:lord|god|heaven|almighty|maker|he|fever|consumption|plague|cholera|typhus|illness|cancer|sea|christ|angels?) (?:\w+ ){0,3}?(?:called|took|summoned|gathered|carried|bore|finished) me (?:home|to h(?:im|er)(?:self)?|from|away|off|unto|in (?:the|my)|at (?:last|the age)|up)\b"
    r"|\b(?:drank|drunk|took|taken|swallowed) (?:the|that|my) (?:hemlock|poison|cup)\b|\b(?:paid|pay) (?:for (?:it|this|that) )?with my life\b|\bcost me my (?:life|head)\b|\blost my (?:life|head)\b|\bgave my life(?! to)\b|\b(?:took|ended) my (?:own )?life\b"
    r"|\bmy life (?:ended|was (?:cut short|taken|over)|came to (?:an|its) end)\b|\b(?:killed|poisoned|hanged|drowned|stabbed) myself\b|\basp bite me\b|\bi would (?:still )?have lived\b|\bi(?: did not|'d not| didn't| never) live[d]? (?:long enough )?to\b"
    r"|\bwhile i (?:still )?lived(?! (?:in|at|with|on|there|near|here))\b|\bwhen i was (?:still )?alive\b|\bhad i lived\b|\bposthumous(?:ly)?\b|\b(?:dead|deceased|gone) (?:for|these) (?:[\w-]+ ){1,4}?(?:years|centuries)\b|\b(?:in the end|finally|at last|at length) (?:\w+ )?killed me\b"
    r"|\bthe last (?:work|book|piece|thing|letter|poem|novel|quartet|symphony) (?:that )?i (?:ever )?(?:\w+ed|wrote)\b(?! before (?:going|leaving|my (?:hearing|deafness|blindness)))|\(\s*(?:c\. ?)?\d{2,4}(?: (?:bc|ad))?\s*[-–—]\s*(?:c\. ?)?\d{2,4}(?: (?:bc|ad))?\s*\)|\bno longer (?:be )?among the living\b|\bbeyond the grave\b|\bmy ghost\b"
    r"|\bat (?:the )?age (?:of )?[\w-]+\b[^.]{0,20}\bi died\b|\b(?:were|was) my (?:last|final|dying) words\b|\bso (?:ended|ends) my life\b|\bthat was the end of me\b",
    re.IGNORECASE,
)
MY_DEATH = re.compile(
    rf"\bmy (?:own )?(?:\w+ )?(?:\w+ and )?{_NOUN}\b|(?:last|final) (?:\w+ )?(?:days|weeks|months|years) of my life\b|\bend of my life\b"
    r"|\bmy (?:body|bones|ashes|remains|relics|skull|skeleton|head|heart|stone|dust|hair)\b[^.]{0,20}\b(?:lies?|lay|rests?|rested|(?:was|were|is|are|be|been) (?:\w+ )?(?:buried|laid|taken|moved|kept|found|burn\w+|carried|brought|broken|displayed|scattered|preserved|dug|put|returned|stolen|cut|shown|borne|opened|thrown|never found))\b",
    re.IGNORECASE,
)
AFTER = re.compile(
    rf"\b(?:after|since|until|till|upon|following|before|at|by|on|of|to) my (?:own )?(?:\w+ )?(?:death|demise|passing|burial|funeral|murder|assassination|execution|suicide|decease)\b|\b(?:after|since) i (?:was|had|have) (?:\w+ )?(?:gone|passed|died|left (?:this|the) (?:world|earth|life))\b|\b(?:long|years|centuries|soon|shortly|days|months|ages) after (?:me\b|my (?:time|day|life)\b|i {_GONE})"
    r"|\bafter my (?:own )?(?:time|day|lifetime)\b|\bwhen i was gone\b|\bonce i was gone\b",
    re.IGNORECASE,
)

_VERBS = (
    r"(?:play(?:ed|s)?|perform(?:ed|s)?|regard(?:ed|s)?|remember(?:ed|s)?|consider(?:ed|s)?|stud(?:y|ied|ies)|admire[ds]?|celebrate[ds]?|greet(?:s|ed)?|recogni[sz]e[ds]?|revere[ds]?|accepted|count|quot(?:e|ed|es)|read|reads|recite[ds]?|sing|sings|sung"
    r"|taught|teach(?:es)?|cite[ds]?|print(?:ed|s)?|honou?r(?:ed|s)?|venerate[ds]?|worship(?:ped|s)?|pray|visit(?:ed|s)?|use[ds]?|call(?:ed|s)?|speak|spoken|speaks|knows?|known|love[ds]?|cherish(?:ed|es)?|appreciate[ds]?|inspir\w+|mov(?:e|es|ing)(?! me)|listen\w*|debate[ds]?|discuss\w*|argu\w+|name[ds]?|follow(?:ed|s)?|wear|carry|film(?:ed)?|stage[ds]?|translate[ds]?|reprint(?:ed)?|publish(?:ed)?|bears?|enjoy(?:ed|s)?|famous|reads?|learn\w*|tell|told|guide[ds]?)"
)
_NOW = r"(?:(?<!i )still|today|to this day|nowadays|these days|even now|in your (?:time|day|age|century)|in modern times|in our (?:modern )?(?:time|age)|ever since|down the ages|across the ages|for generations|centuries later|generations later)"
_AGES = r"(?:(?:a |two |three |four |five |many |several |some |\w+ )?(?:centur(?:y|ies)|millenni(?:um|a)|generations|(?:hundreds?|thousands?)(?: and \w+)?(?: of)? years|\d{3,4} years))"
_WHO = r"(?:scholars?|historians?|biographers?|critics|musicologists?|schoolchild(?:ren)?|school ?(?:boys?|girls?)|students|pupils|teachers|readers|scientists|astronomers|philosophers|engineers|programmers|tourists|visitors|museums?|people|the world|everyone|everybody|they|men|women|children|children)"
FAME = re.compile(
    rf"\b{_NOW}\b[^.]{{0,60}}\b{_VERBS}\b|\b{_VERBS}\b[^.]{{0,60}}\b{_NOW}\b|\bcontinues? to (?:\w+ ){{0,2}}?(?:inspire|resonate|captivate|touch|move|influence|shape|guide|fascinate|speak|live|be (?:\w+ )?\w+ed)\b(?! me\b)"
    rf"|\b{_AGES} (?:later|after|on|since|hence|afterwards?)\b|\bfor {_AGES}\b[^.]{{0,50}}\b(?:have|has|had|until|forgot\w*|lay|was|were)\b|\b(?:past|last|next|following) (?:\w+ )?centuries\b|\bmore than a century\b|\blasting (?:impact|influence|mark|legacy|effect)\b(?! on (?:me|my|our)\b)"
    r"|\b(?:influenced|inspired|shaped) (?:\w+ ){0,2}?(?:countless|generations|later|millions|many (?:later|others|who)|the (?:world|course))\b|\b(?:later|modern|future|subsequent) (?:composers|writers|authors|novelists|scientists|philosophers|thinkers|historians|poets|scholars|mathematicians|physicists|astronomers|kings|emperors|theologians|ages|generations|centuries|men|women|times|readers|critics|popes?)\b"
    rf"|\b{_WHO} (?:today|now|still|these days|nowadays|have (?:since|long|called|argued|written|debated)|say|agree|debate|dispute|think|believe|call|regard|consider|remember|knows?)\b[^.]{{0,60}}\b(?:me|my|mine|us|our)\b"
    r"|\b(?:named|called|christened|titled) (?!(?:the|a|their|his|her) (?:child|baby|boy|girl|son|daughter|infant)\b)(?:[\w']+ ){0,5}?(?:after|for|in honou?r of) (?:my )?(?:[\w']+ and )?(?:me|us)\b|\b(?:bears?|carr(?:y|ies|ied)|given|gave|took|bearing) (?:\w+ ){0,3}?(?:my|our) (?:own )?name\b|\bby my name\b|\bmy name (?:became|lasted|went)\b|\bin my (?:honou?r|memory)\b"
    r"|\b(?:statues?|monuments?|museums?|plaques?|memorials?|busts?|books?|plays?|films?|poems?|biograph(?:y|ies)|operas?|novels?|stamps?|schools?|streets?|postage|banknotes?|songs?|ballads?) (?:\w+ ){0,3}?(?:of|to|for|about|on|with|after|bear\w*|that) (?:me|my)\b|\bwrote the (?:book|story) of my life\b"
    r"|\bmy (?:name|works?|music|books?|novels?|writings?|ideas?|laws?|legacy|story|words|example|influence|memory|fame|face|portrait|verses|teachings?|discover(?:y|ies)|visions|meditations|songs|house|home|birthplace) (?:\w+ ){0,2}?(?:lives? on|endures?|endured|survives?|survived|continues?|(?:is|are) (?:now|known (?:throughout|all|around|in every|to every)|remembered|immortal|everywhere|secure|on (?:the|a) (?:bank|stamp|note|coin|bill)|a (?:museum|monument|shrine|symbol))|has become|have become|(?:has|have) been (?:\w+ )?(?:inspir\w+|translated|adapted|celebrated|studied|filmed|performed|used|played|loved|reprinted|copied|canoni[sz]ed)|outlived|went on|(?:has|have) (?:inspired|influenced|shaped|lived|survived|endured|never (?:gone|been)))\b"
    r"|\b(?:history|posterity) (?:has|have|remembers?|calls?|knows?|made|gave|forgot|judged|judges|rather|would|records?|proved|was|came|regards?|took)\b|\bmade me (?:immortal|a (?:saint|legend|god|hero|martyr|symbol|doctor)|into)\b|\b(?:had me|was|i am|declared me|made me) (?:declared|proclaimed)?\s?(?:a )?(?:doctor of the church|god after)\b|\bdeclared (?:me )?(?:a god|a saint|divine)\b"
    r"|\b(?:became|become|am|remain) (?:a |an )?(?:symbol|legend|icon|byword)\b|\bwent down in history\b|\bthe (?:whole )?world knows (?:about |of )?(?:me|my)\b|\b(?:no ?one|nobody) (?:\w+ )?(?:remembers?|remembered|knows) (?:me|my)\b|\bwas (?:long )?forgotten\b[^.]{0,40}\b(?:until|for)\b"
    r"|\b(?:now|today) (?:\w+ )?(?:called|known as|considered|regarded|recogni[sz]ed|accepted|seen as|thought|lies?|hangs?|stands?|kept|preserved|named|reckoned|count|hold)\b|\bbehind glass\b|\bmy (?:face|head|portrait|likeness) (?:\w+ ){0,2}?(?:on|upon) (?:the|a) (?:[\w-]+ )?(?:note|banknote|stamp|bill)\b|\b(?:is|stands) (?:now )?a (?:museum|memorial|statue|monument|plaque)\b|\bmy \w+ (?:is|are) (?:\w+ )?taught (?:to|in)\b|\bon display\b|\bkeep in (?:a|the) museum\b"
    r"|\b(?:i am|i'm|it is|they are|is|are|me) (?:\w+ )?(?:regarded|considered|recogni[sz]ed|remembered|known|seen|revered|hailed|celebrated|reckoned|counted|acclaimed) (?:\w+ )?(?:as |to be |among )?(?:(?:one|some) of )?(?:the|my) (?:\w+ )?(?:greatest|most (?:important|influential|famous|celebrated|beloved)|finest|father|mother|founders?|pioneers?|first|last)\b"
    r"|\b(?:me|my)\b[^.]{0,20}\b(?:the )?(?:father|mother|founder) of (?:modern|western|all)\b|\b(?:i am|i was|me|my|works?|it is)\b[^.]{0,60}\bof all time\b|\bfirst (?:computer )?programm?(?:er|ing|e)?\b|\b(?:a|the) temple (?:now )?stands?\b|\bbeyond my (?:own )?(?:time|lifetime|years)\b|\bmy (?:music|works?|writings|words|ideas) [^.]{0,20}\btranscend\w* (?:time|the ages|centuries|generations)\b|\bstood? the test of time\b|\binspired? (?:\w+ ){0,3}?generations\b"
    r"|\b(?:bring|brought|left|leave) (?:\w+ ){0,3}?(?:lasting|indelible|enduring|eternal) (?:mark|impact|influence|legacy|contribution) (?:on|to) (?:the|all|western|modern|music|science|literature|history|generations)\b|\b(?:enduring|eternal|lasting|timeless) (?:legacy|fame|influence|testament|appeal|impact|popularity)\b|\blegacy (?:\w+ )?(?:lives?|continues?|endures?|has|is)\b|\bit took (?:a|two|three|them) (?:\w+ )?(?:hundred|century|centuries)\b|\bnobody has found\b|\bi followed (?:him|her)\b",
    re.IGNORECASE,
)
OF_DEATH = re.compile(
    r"\babout you afterwards\b|\b(?:your|thy) (?:own )?(?:death|funeral|burial|grave|tomb|coffin|corpse|dying|last words|demise|passing|legacy|murder|execution|assassination|epitaph|statue|monument|remains|bones)\b"
    r"|\bdid you die\b|\byou (?:died|die|are dead|were dead|were buried|passed away|were gone|had gone|had died)\b|\bare you (?:buried|dead)\b|\bwere you buried\b|\b(?:killed|murdered|stabbed|assassinated|executed|buried|beheaded) you\b|\bdid (?:\w+ ){1,6}of you afterwards\b|\babout you afterwards\b|\bend of your life\b|\byour life end\b|\boutlive you\b|\bstill famous\b|\bstill remembered\b",
    re.IGNORECASE,
)
KNOWN_NOW = re.compile(
    r"\b(?:is|are) (?:now|today) (?:called|known as|considered|regarded)\b|\bstill (?:widely )?regarded as\b|\bread ever since\b",
    re.IGNORECASE,
)
"""Fame that needs no *I* or *my* beside it."""
RESTS = re.compile(
    r"^\W*where (?:do|can|are|could|did) (?:you|one|we|people|they)\b[^.]{0,20}\b(?:rest|lie|visit|find|buried|lay)\b",
    re.IGNORECASE,
)
GRAVE = re.compile(
    r"\b(?:vault|crypt|tomb|grave|churchyard|graveyard|cemetery|sarcophagus|mausoleum|buried)\b",
    re.IGNORECASE,
)
DYING = re.compile(
    r"\b(?:mortal|wounds?|blows?|daggers?|rope|scaffold|coffin|bier|pyre|mourn\w*|wept|weeping|funeral|grave|tomb|buried|laid|died|an(?:a)?emia|fever|cancer|pneumonia|consumption|stroke|dropsy|sanatorium|plague|cholera|typhus|tuberculosis|poison|inspir\w+|legacy|remember\w*)\b",
    re.IGNORECASE,
)
"""What answers to a question about the own death have, besides their verbs."""
