#!/usr/bin/env python3
"""Small templates and what jinja2 makes of them, with the settings of gen_templates.py.

Writes tests/golden/templates/expressions.json: {"vars": ..., "cases": [[template, kind, text or message], ...]}.
kind is ok, undefined, raised, syntax or error.  Run from the repository's root.
"""
import json
import sys

from gen_templates import environment, render

VARS = {
    "s": "Hello World", "e": "", "u": "Grüße 日本 🙂", "q": "it's \"x\"", "w": "  a b\t\n", "n": 42, "neg": -7, "f": 2.5,
    "z": None, "t": True, "l": [3, 1, 2], "el": [], "d": {"b": 1, "a": {"x": [1, 2]}, "items": "own"}, "ed": {},
    "m": [{"r": "u", "c": "one", "k": 2}, {"r": "a", "c": "Two", "k": 1}, {"r": "u", "c": "three"}],
    "words": ["b", "A", "c", "B", "a"], "html": "<a href='x'>&\"</a>", "lines": "one\n\n two\r\nthree\n",
}

EXPRESSIONS = r"""
1 + 2 * 3
2 ** 3 ** 2
-2 ** 2
7 // 2
-7 // 2
7 % 3
-7 % 3
7 % -3
7 / 2
6 / 3
1 / 3
7.5 // 2
-7.5 % 2
2 ** -1
2 ** 0.5
1 + 1.0
1e16
1e15
123456789012345678
1e-5
0.0001
1.5e300
100000000000000000000.0
0.1 + 0.2
1_000
0x1F
0b101
0o17
1.0
-0.0
3 == 3.0
true + 1
1 / 0
1 // 0
1 % 0
1.5 / 0
'a' + 'b'
'a' + 1
1 + 'a'
'a' * 3
3 * 'ab'
'a' * -1
[1] * 2
[1, 2] + [3]
[1] + (2,)
(1, 2) + (3,)
(1,)
()
(1)
1, 2
[]
{}
{'a': 1, 'b': [1, 2.5, none, true, 'x']}
{1: 2, 'k': {}}
{1: 'a', true: 'b', 1.0: 'c'}
{'a': 1, 'a': 2}
['it\'s', "say \"hi\"", "both ' and \"", 'tab\t nl\n bs\\']
['é', '\x00', '\x7f', '\u2028', '🙂', '\xa0', '\u200b']
none
None
true
False
[none, true, false]
'a' ~ 1 ~ none ~ true ~ 1.5 ~ [1]
1 < 2
1 < 2 < 3
1 < 3 < 2
1 < 'a'
'a' < 'b'
'B' < 'a'
[1, 2] < [1, 3]
[1] < [1, 0]
(1, 2) >= (1, 2)
none < 1
1 <= 1.0
1 == true
'1' == 1
[1, 2] == [1, 2]
[1] == (1,)
{'a': 1, 'b': 2} == {'b': 2, 'a': 1}
none == false
1 != 2
not 1
not not ''
1 and 0
'' or 'x'
none and 1
0 or none
1 if 0 else 2
1 if 1
1 if 0
(1 if 0) is defined
'a' if e else 'b' if s else 'c'
'a' in 'abc'
'' in 'abc'
1 in [1, 2]
1.0 in [1, 2]
3 not in [1, 2]
'b' in d
'x' in d
1 in 'abc'
1 in 5
missing in [1]
1 in missing
s[0]
s[-1]
s[99]
s[1:3]
s[:-2]
s[::-1]
s[::2]
s[8:2:-2]
s[-3:]
s[5:1]
u[2]
u[-1]
u[3:8]
u[::-1]
l[0]
l[-1]
l[5]
l[1:]
l[::-1]
l[-100:100]
l['0']
l['count']
(1, 2, 3)[1:]
l[none:2]
l['a':2]
l[::0]
d['a']['x'][1]
d.a.x
d.a.x.0
d.b
d.nope
d.nope.deeper
d['nope']
d['nope']['deeper']
d.items
d['items']
d.items()
d.keys()
d.values()
d.items()|list
d.get('b')
d.get('q')
d.get('q', 5)
d.get(['x'])
z.foo
z['foo']
n.foo
s.foo
s.foo.bar
missing
missing.x
missing[0]
missing()
missing + 1
1 + missing
'a' + missing
missing ~ 'x'
missing == other
missing == none
missing|length
missing|list
missing|default('d')
missing is none
-missing
missing < 1
'%s' % missing
'%d' % missing
d.pop('b')
l.append(4)
d.update({'x': 1})
l.sort()
d.clear
l.append is defined
d.pop is defined
s()
n()
5.foo
s.upper()
s.lower()
u.upper()
u.lower()
'straße'.upper()
'ﬁn'.upper()
'ÀÉ'.lower()
'hello world foo'.title()
"they're bill's".title()
'hELLO'.capitalize()
u.capitalize()
'aBc'.swapcase()
w.strip()
w.lstrip()
w.rstrip()
'xxaxx'.strip('x')
'abcba'.lstrip('ab')
'abcba'.rstrip('ab')
'é-é'.strip('é')
'a'.strip(none)
'a'.strip(1)
'abc'.removeprefix('a')
'abc'.removesuffix('c')
'abc'.removesuffix('x')
s.split()
w.split()
'a,b,,c'.split(',')
'a,b,c'.split(',', 1)
'a b  c'.split(none, 1)
'a b  c '.split(maxsplit=1)
'a'.split('')
''.split()
''.split(',')
'a,b,c'.rsplit(',', 1)
'a<x>b<x>c'.split('<x>')[-1]
'aXbXc'.rsplit('X')
lines.splitlines()
lines.splitlines(true)
'a=b=c'.partition('=')
'a=b=c'.rpartition('=')
'abc'.partition('x')
'abc'.rpartition('x')
s.startswith('He')
s.startswith(('x', 'H'))
s.startswith('W', 6)
s.endswith('ld')
s.endswith('')
s.startswith(1)
s.startswith(['H'])
s.find('o')
s.find('o', 5)
s.rfind('o')
s.find('zz')
u.find('日')
s.index('W')
s.index('zz')
s.count('l')
s.count('')
'aaaa'.count('aa')
s.replace('l', 'L')
s.replace('l', 'L', 1)
'abc'.replace('', '-')
'abc'.replace('', '-', 2)
'aaa'.replace('a', '')
u.replace('日本', 'x')
', '.join(['a', 'b'])
''.join([])
', '.join([1])
', '.join('abc')
'abc'.isalpha()
'123'.isdigit()
'a1'.isalnum()
' '.isspace()
''.isdigit()
'AB'.isupper()
'ab'.islower()
'Ab Cd'.istitle()
'é'.isascii()
'5'.zfill(3)
'-5'.zfill(4)
'a'.ljust(4, '.') ~ '|'
'a'.rjust(4) ~ '|'
'ab'.center(7, '*')
'abc'.center(6, '*')
'a\tb'.expandtabs(4)
'%s' % 'x'
'%s-%s' % ('a', 1)
'%s' % (1,)
'%s' % [1, 2]
'%5s|%-5s|' % ('a', 'b')
'%05d' % 42
'%+d' % 42
'%x %X %o' % (255, 255, 8)
'%#x' % 255
'%.2f' % 3.14159
'%8.3f|' % 2.5
'%e' % 12345.678
'%g' % 0.00001
'%g' % 100000.0
'%r' % 'a'
'%%' % ()
'%d%%' % 5
'%(a)s %(b)05.1f' % {'a': 1, 'b': 2.25}
'%s %s' % 'a'
'%s' % ('a', 'b')
'%d' % 'a'
'%q' % 1
'%*d' % (5, 3)
'%.1s' % 'abc'
'%c' % 'x'
'%i' % 3.9
'{}'.format(1)
'{} {}'.format('a', 'b')
'{1} {0}'.format('a', 'b')
'{x} {y}'.format(x=1, y='z')
'{0.b} {0[a]}'.format(d)
'{0[1]}'.format([1, 2])
'{:>5}|{:<5}|{:^5}|'.format('a', 'b', 'c')
'{:05d}'.format(42)
'{:.2f}'.format(3.14159)
'{:,}'.format(1234567)
'{:+}'.format(5)
'{:x} {:#x} {:b}'.format(255, 255, 5)
'{:.1%}'.format(0.256)
'{:e}'.format(12345.678)
'{:*^9}'.format('mid')
'{!r}'.format('a')
'{{}}'.format()
'{'.format()
'{}'.format()
'{a}'.format(b=1)
'{:d}'.format('x')
'{} {}'.format(1.5, none)
'{:10}|{:10}|'.format('a', 5)
'{:.3}'.format('abcdef')
'{:g}'.format(2.0)
s|upper
s|lower
'hello wORLD foo-bar (baz)'|title
'hELLO'|capitalize
w|trim
'xax'|trim('x')
n|trim
s|replace('l', 'L', 1)
n|replace('4', 'x')
lines|indent
lines|indent(2, true)
lines|indent(2, blank=true)
lines|indent('> ', first=true)
'a\n'|indent
''|indent
n|indent
s|center(21)
'a b c d e f g h i j'|truncate(9)
'abcdefghijklmnop'|truncate(9, true)
'abcdefghijklmnop'|truncate(9, true, '…', 0)
'short'|truncate(9)
s|wordcount
html|e
html|escape|e
html|safe
html|safe + '<b>'
'<b>' + html|safe
(html|safe) ~ '<b>'
html|forceescape
html|safe|e
'<i>'|e|forceescape
html|safe|replace('a', '<')
(html|safe).replace('a', '<')
('<b>'|safe).join(['<', '>'])
('<b>%s'|safe) % '<x>'
('<B>'|safe)|lower + '<'
'%s %s'|format('a', 1)
'%(x)s'|format(x=1)
n|string
n|string|length
none|string
[1]|string
d|tojson
d|tojson(indent=2)
d|tojson(2)
d|tojson(indent='\t')
ed|tojson(indent=2)
el|tojson(indent=2)
[[], {}, [1]]|tojson(indent=1)
d|tojson(indent=none)
u|tojson
u|tojson(ensure_ascii=true)
q|tojson
html|tojson
html|safe|tojson
'\x00\x1f\x7f\b\f\n\r\t/\u2028'|tojson
'\x7fé'|tojson(ensure_ascii=true)
1.0|tojson
1e100|tojson
1e-7|tojson
(1, [2])|tojson
{1: 2, none: 3, true: 4, 1.5: 5}|tojson
{'b': 1, 'a': 2}|tojson(sort_keys=true)
d|tojson(separators=(',', ':'))
d|tojson(separators=(',', ':'), indent=2)
missing|tojson
{(1, 2): 3}|tojson
range(3)|tojson
'12'|int
' 12 '|int
'1_000'|int
'x'|int
'x'|int(5)
'3.7'|int
3.7|int
-3.7|int
'0x1f'|int(0, 16)
'ff'|int(base=16)
none|int
[1]|int(9)
true|int
missing|int
'1.5'|float
'x'|float
'x'|float(2.5)
'1e3'|float
'inf'|float
'nan'|float
3|float
-5|abs
-5.5|abs
'x'|abs
2.5|round
3.5|round
-2.5|round
2.675|round(2)
42.55|round(1, 'floor')
42.55|round(1, 'ceil')
1234|round(-2)
1250.0|round(-2)
5|round
42|round(1)
2.5|round|int
e|default('x')
e|default('x', true)
none|default('x')
none|default('x', true)
missing|d
missing|default(boolean=true)
missing|default(default_value='q')
l|length
s|length
u|length
d|count
5|length
none|length
l|first
el|first
el|first is defined
d|first
s|first
5|first
l|last
el|last
s|last
d|last
d.items()|last
s|list
d|list
5|list
l|join
l|join(', ')
m|join('-', attribute='c')
m|join('-', 'k')
[1, none, 'x']|join('|')
5|join
s|reverse
u|reverse
l|reverse|list
l|sort
l|sort(reverse=true)
words|sort
words|sort(case_sensitive=true)
words|sort(true)
m|sort(attribute='c')|map(attribute='c')|list
m|sort(attribute='r,c')|map(attribute='c')|list
m|sort(attribute='k')
[1, 'a']|sort
[[2, 1], [1, 2]]|sort
{'b': 2, 'a': 1}|sort
{'b': 2, 'A': 1, 'c': 0}|dictsort
{'b': 2, 'A': 1, 'c': 0}|dictsort(true)
{'b': 2, 'A': 1, 'c': 0}|dictsort(false, 'value')
{'b': 2, 'A': 1, 'c': 0}|dictsort(by='value', reverse=true)
{'b': 2}|dictsort(by='x')
l|dictsort
d|items|list
missing|items|list
l|items|list
[3, 1, 2]|min
[3, 1, 2]|max
words|min
words|max
words|max(case_sensitive=true)
el|max
el|max is defined
m|max(attribute='c')
[1, 2.5]|sum
m[:2]|sum(attribute='k')
[[1], [2]]|sum(start=[])
['a']|sum
words|unique|list
words|unique(true)|list
[1, 1.0, true, 2]|unique|list
[[1]]|unique|list
m|groupby('r')
m|groupby('r')|map(attribute=0)|list
m|groupby('k', default=0)|length
words|groupby(0)
[1, 2, 3, 4, 5]|batch(2)|list
[1, 2, 3, 4, 5]|batch(2, 'x')|list
[1, 2, 3, 4, 5]|slice(3)|list
[1, 2, 3, 4, 5]|slice(3, 'x')|list
[]|slice(2)|list
words|map('upper')|list
words|map('upper')|join
m|map(attribute='k')|list
m|map(attribute='k', default=0)|list
m|map(attribute='a.b')|list
m|map('length')|list
m|map('nope')|list
m|map
[1, 2, 3, 4]|select('odd')|list
[1, 2, 3, 4]|select('divisibleby', 2)|list
[1, 0, '', none, 'x']|select|list
[1, 0, '', none, 'x']|reject|list
[1, 2, 3]|select('>', 1)|list
[1, 2, 3]|reject('eq', 2)|list
[1]|select('nope')|list
m|selectattr('k')|list
m|selectattr('k', 'defined')|list|length
m|selectattr('r', 'equalto', 'u')|map(attribute='c')|list
m|rejectattr('r', 'eq', 'u')|map(attribute='c')|list
m|selectattr('k', 'gt', 1)|list
m[:2]|selectattr('k', 'gt', 1)|list
m|selectattr('r', 'in', ['a', 'z'])|list
m|selectattr
m|selectattr('r', '==', 'u')|first
(m|selectattr('r', '==', 'u'))|length
missing|selectattr('r')|list
s|attr('upper')
d|attr('b')
(d|attr('get'))('b')
missing is defined
missing is undefined
missing is not defined
z is none
z is not none
s is string
n is string
n is number
t is number
t is integer
n is integer
f is float
f is number
t is boolean
t is true
n is true
false is false
d is mapping
l is mapping
l is sequence
s is sequence
d is sequence
n is sequence
range(3) is sequence
d.items() is sequence
l|reverse is sequence
(l|reverse) is iterable
l is iterable
s is iterable
d is iterable
n is iterable
none is iterable
missing is iterable
missing is sequence
missing is mapping
range is callable
s.upper is callable
s is callable
n is odd
n is even
n is divisibleby 7
n is divisibleby(6)
neg is odd
f is odd
s is odd
'abc' is lower
'ABC' is upper
'a' is in 'abc'
1 is in [1, 2]
1 is not in [1, 2]
n is eq 42
n is equalto(42)
n is == 42
n is ne 42
n is gt 41
n is lessthan 43
n is sameas n
none is sameas none
1 is sameas true
s is escaped
(s|safe) is escaped
'upper' is filter
'nope' is filter
'odd' is test
n is nope
n|nope
n is defined and s is defined
n is defined is true
not n is defined
n is not odd or false
range(3)
range(1, 4)|list
range(10, 0, -3)|list
range(0)|list
range(5)[1:3]|list
range(5)[-1]
range(5)|length
range(3) == range(0, 3)
range(1, 2, 0)
range('a')
range(200000)
range(1.5)
dict(a=1, b=2)
dict([('x', 1), ['y', 2]])
dict(d, z=1)
dict([1])
namespace(a=1).a
namespace(a=1)
namespace(a=1).b
namespace(_a=1)
namespace({'x': 1}, y=2).x
raise_exception('boom')
raise_exception('a' ~ n)
strftime_now('%Y-%m-%d')
strftime_now('%d %b %Y')
strftime_now('%B %d, %Y %H:%M:%S %j %A')
s.upper
range
'a' 'b'
'a' "b" 'c'
'\x41\u00e9\U0001F642\101\q\
x'
'\'"\\'
"\n"|length
d.a['x']|length
(l|sort)[0]
l|sort|first
l|length > 2
s|length + 1
-n|abs
n|string + 'x'
not s is string
s.split('o')[0].strip().upper()|lower|replace('h', 'J')
[1, [2, [3, {'a': (4,)}]]]
{'a': 'x'}.a
{'a': 'x'}['a']
[1, 2][0]
'abc'[1]
(1, 2).1
l.count(1)
l.index(2)
l.index(9)
(1, 2, 1).count(1)
d.copy().b
s == 'Hello World'
u == 'Grüße 日本 🙂'
'é' < 'z'
1 == 1 == 1
1 == 1 and 2 == 2
(1 < 2) == true
true and true or false
0.1 * 3
1e22
123456.789e3
5 // 0.3
2 ** 62
2 ** 10
1 - - 1
+n
+s
-s
not missing
[missing]
[missing]|length
{'a': missing}
[s, n, f, z, t]
s in [s]
l == [3, 1, 2]
d.a == {'x': [1, 2]}
loop
caller is defined
"""

TEMPLATES = [
    "a\n", "a\n\n", "a\r\nb\rc\n", "", "\n", "  {{ 1 }}  \n", "{{ 1 }}\n{{ 2 }}\n",
    "{% if 1 %}\nx\n{% endif %}\ny", "  {% if 1 %}\n  x\n  {% endif %}\ny", "a {% if 1 %} b {% endif %} c",
    "a  {%- if 1 -%}  b  {%- endif -%}  c", "a\n  {%+ if 1 %}\nb\n{%+ endif +%}\nc", "a {{- 1 -}} b", "a {{+ 1 }} b",
    "{{-1}}", "{{ -1 }}", "{{ - 1 }}", "a {# c #}\nb", "a\n   {# c #}\nb", "a {#- c -#} b", "a\n {#+ c +#}\nb", "{# {{ x }} {% #}y",
    "{#", "{# a", "{{", "{%", "{{ 1", "{% if 1", "{% if 1 %}", "}}", "%}", "#}", "{ {", "{", "a{b}c", "{{ '}}' }}", "{{ '%}' }}",
    "{{ {'a': {}} }}", "{{ {'a': {'b': 1}}['a']['b'] }}", "{% set x = {'a': {}} %}{{ x }}",
    "{% raw %}{{ x }}{% if %}{% endraw %}!", "a {%- raw -%} b {%- endraw -%} c", "{% raw %}\nx\n{% endraw %}\ny", "{% raw %}x",
    "  {% raw %} x {% endraw %}\n", "{%raw%}a{%endraw%}", "{% rawx %}",
    "{% for x in l %}{{ x }}{% endfor %}", "{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }} {% endfor %}",
    "{% for x in el %}a{% else %}b{% endfor %}", "{% for x in l %}a{% else %}b{% endfor %}",
    "{% for x in l if x > 1 %}{{ loop.index }}{{ x }}{{ loop.length }}{{ loop.last }}{% endfor %}",
    "{% for x in l if x > 9 %}a{% else %}none{% endfor %}",
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}", "{% for k in d %}{{ k }}{% endfor %}",
    "{% for a, b in [[1, 2], [3, 4]] %}{{ a }}{{ b }}{% endfor %}", "{% for a, b in [[1, 2, 3]] %}{{ a }}{% endfor %}",
    "{% for a, b in [1] %}{{ a }}{% endfor %}", "{% for (a, b), c in [[[1, 2], 3]] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "{% for x in 5 %}{% endfor %}", "{% for x in none %}{% endfor %}", "{% for x in missing %}a{% else %}b{% endfor %}",
    "{% for c in u %}{{ c }}.{% endfor %}", "{% for x in l %}{{ loop.previtem }}-{{ loop.nextitem }};{% endfor %}",
    "{% for x in l %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }} {% endfor %}",
    "{% for x in l %}{{ loop.cycle('a', 'b') }}{% endfor %}", "{% for x in [1, 1, 2, 2, 1] %}{{ loop.changed(x) }} {% endfor %}",
    "{% for x in l %}{% for y in l %}{{ loop.index }}{% endfor %}{{ loop.index }} {% endfor %}",
    "{% for x in l %}{% set outer = loop %}{% for y in l %}{{ outer.index }}{{ loop.index }} {% endfor %}{% endfor %}",
    "{% for x in [1, [2, [3]]] recursive %}{% if x is iterable %}({{ loop(x) }}){% else %}{{ x }}@{{ loop.depth }}{{ loop.depth0 }}{% endif %}{% endfor %}",
    "{% for x in l %}{{ loop(x) }}{% endfor %}", "{% for x in range(5) %}{% if x == 3 %}{% break %}{% endif %}{{ x }}{% endfor %}!",
    "{% for x in range(5) %}{% if x % 2 %}{% continue %}{% endif %}{{ x }}{% endfor %}!",
    "{% for x in l %}{% break %}{% else %}e{% endfor %}", "{% for x in l %}{% continue %}{% else %}e{% endfor %}",
    "{% for x in l %}{{ x }}{% if loop.first %}{% continue %}{% endif %}.{% else %}e{% endfor %}",
    "{% break %}", "{% for x in l %}{% macro f() %}{% break %}{% endmacro %}{% endfor %}",
    "{% for x in l %}{{ x }}{% endfor %}{{ x }}", "{% set x = 1 %}{% for x in l %}{{ x }}{% endfor %}{{ x }}",
    "{% set x = 1 %}{% for y in l %}{% set x = x + y %}{{ x }} {% endfor %}{{ x }}",
    "{% set ns = namespace(x=1) %}{% for y in l %}{% set ns.x = ns.x + y %}{% endfor %}{{ ns.x }}",
    "{% set ns = namespace() %}{% set ns.a = 1 %}{% set ns.b = ns.a %}{{ ns.b }}{{ ns }}",
    "{% set ns = namespace() %}{% set ns._a = 1 %}", "{% set d.x = 1 %}", "{% set missing.x = 1 %}", "{{ d.x }}",
    "{% if 1 %}{% set x = 5 %}{% endif %}{{ x }}", "{% if 0 %}{% set x = 5 %}{% endif %}{{ x }}|{{ x is defined }}",
    "{% if n is not defined %}{% set n = 1 %}{% endif %}{{ n }}", "{% if nn is not defined %}{% set nn = 1 %}{% endif %}{{ nn }}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set a, b = [1] %}", "{% set a = 1, %}{{ a }}", "{% set (a, b) = 'xy' %}{{ a }}{{ b }}",
    "{% set x %}a{{ n }}b{% endset %}{{ x }}|{{ x|length }}", "{% set x | upper | trim %} a {% endset %}[{{ x }}]",
    "{% set x %}{% set y = 5 %}{% endset %}{{ y }}", "{% set true = 1 %}", "{% set 5 = 1 %}", "{% set a.b.c = 1 %}",
    "{% if 0 %}a{% elif 0 %}b{% elif 1 %}c{% else %}d{% endif %}", "{% if 0 %}a{% else %}d{% endif %}", "{% if n %}y{% endif %}",
    "{% if e %}1{% endif %}{% if el %}2{% endif %}{% if ed %}3{% endif %}{% if 0.0 %}4{% endif %}{% if missing %}5{% endif %}{% if range(0) %}6{% endif %}",
    "{% if l|select %}generator{% endif %}", "{% if %}{% endif %}", "{% if 1 %}{% else %}{% elif 1 %}{% endif %}", "{% endif %}", "{% nope %}",
    "{% if 1, %}tuple{% endif %}",
    "{% macro f() %}x{% endmacro %}{{ f() }}", "{% macro f(a, b=2) %}{{ a }}-{{ b }}{% endmacro %}{{ f(1) }} {{ f(1, 3) }} {{ f(b=5, a=4) }} {{ f() }}",
    "{% macro f(a) %}{{ a.x }}{% endmacro %}{{ f() }}", "{% macro f(a) %}{% endmacro %}{{ f(1, 2) }}", "{% macro f(a) %}{% endmacro %}{{ f(b=2) }}",
    "{% macro f(a) %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, 2, 3, x=4) }}", "{% macro f(a, b=a) %}{{ b }}{% endmacro %}{{ f(7) }}",
    "{% macro f(a=1, b) %}{% endmacro %}", "{% macro f() %}{{ caller() }}{% endmacro %}{% call f() %}body{{ n }}{% endcall %}",
    "{% macro f() %}{{ caller(1, y=2) }}{% endmacro %}{% call(x, y) f() %}{{ x }}{{ y }}{% endcall %}", "{% macro f() %}{{ caller() }}{% endmacro %}{{ f() }}",
    "{% macro f() %}{{ caller is defined }}{% endmacro %}{{ f() }}{% call f() %}{% endcall %}", "{% macro f() %}x{% endmacro %}{% call f() %}{% endcall %}",
    "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% macro f() %}{{ y }}{% endmacro %}{% set y = 3 %}{{ f() }}", "{% macro f() %}{{ y }}{% endmacro %}{% for y in l %}{{ f() }}{% endfor %}",
    "{% set y = 1 %}{% macro f() %}{% set y = 2 %}{{ y }}{% endmacro %}{{ f() }}{{ y }}", "{{ f() }}{% macro f() %}{% endmacro %}",
    "{% macro f() %}{% endmacro %}{{ f }}", "{% macro f(x) %}{{ x }}{% endmacro %}{{ f(*[1]) }}{{ f(**{'x': 2}) }}", "{{ dict(*[[['a', 1]]], **{'b': 2}) }}",
    "{% macro f(x) %}{{ x }}{% endmacro %}{{ f(**{'y': 2}) }}", "{% call n() %}{% endcall %}", "{% call n %}{% endcall %}",
    "{% macro outer() %}{% macro inner() %}i{% endmacro %}{{ inner() }}{% endmacro %}{{ outer() }}{{ inner is defined }}",
    "{% macro f() -%}  a  {%- endmacro %}[{{ f() }}]", "{% macro f(a, a2='d') %}{{ a2 }}{% endmacro %}{{ f(1, none) }}",
    "{% filter upper %}a{{ s }}{% endfilter %}", "{% filter replace('a', 'b')|upper %}aXa{% endfilter %}", "{% filter nope %}{% endfilter %}",
    "{% filter indent(2) %}\na\nb\n{% endfilter %}", "{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a }}", "{% with %}{% set q = 1 %}{{ q }}{% endwith %}{{ q }}",
    "{% set a = 1 %}{% with a = 2, b = a %}{{ a }}{{ b }}{% endwith %}", "{% generation %}x{{ n }}{% endgeneration %}y",
    "{% generation %}{% set q = 1 %}{% endgeneration %}{{ q }}", "{% for x in l %}{% generation %}{{ x }}{{ loop.index }}{% endgeneration %}{% endfor %}",
    "{% print n %}", "{% autoescape false %}{{ html }}{% endautoescape %}", "{% block b %}{{ n }}{% endblock %}", "{% if 0 %}{% include 'x' %}{% endif %}ok",
    "{% if 0 %}{{ n|nope }}{% endif %}ok", "{% if 1 %}{{ n|nope }}{% endif %}ok", "{{ n|nope if 0 else 'ok' }}", "{% if 0 %}{% for x in l %}{{ x|nope }}{% endfor %}{% endif %}",
    "{% if 0 %}{{ n is nope }}{% endif %}ok", "{{ n is nope if 0 else 'ok' }}",
    "{% set g = l|map('string') %}{{ g|join }}|{{ g|join }}", "{% set g = m|selectattr('k') %}{% for x in g %}a{% endfor %}{% for x in g %}b{% else %}empty{% endfor %}",
    "{% for x in l|map('string') %}{{ loop.length }}{{ loop.last }}{{ x }} {% endfor %}", "{% for x in l|reverse %}{{ loop.revindex }}{{ x }} {% endfor %}",
    "{% set ns = namespace(n=0) %}{% for x in range(6) if x > ns.n %}{% set ns.n = x %}{{ x }}{% endfor %}",
    "{% set a = [] %}{% set x = a.append(1) %}{{ a }}{{ x }}", "{% set _ = l.append('x') %}{{ l }}{{ l|length }}",
    "{% for x in l %}{% if l|length < 6 %}{% set _ = l.append(x) %}{% endif %}{{ x }}{{ loop.length }}{{ loop.last }} {% endfor %}{{ l }}",
    "{% set ns = namespace(q=[]) %}{% for x in l %}{% set _ = ns.q.append([x, loop.index]) %}{% endfor %}{{ ns.q }}{{ ns.q.pop(0) }}{{ ns.q.pop() }}{{ ns.q }}",
    "{% set a = l[:] %}{% set b = l|list %}{% set e = l + [] %}{% set g = l.copy() %}{% set h = l * 1 %}{% set i = l|sort %}{% set _ = l.append(9) %}{{ a }}{{ b }}{{ e }}{{ g }}{{ h }}{{ i }}{{ l }}",
    "{% set a = l %}{% set b = l or [] %}{% set e = l|default([]) %}{% set f = {'k': l} %}{% set g = (l, l) %}{% set _ = a.append(9) %}{{ b }}{{ e }}{{ f }}{{ g }}{{ l }}",
    "{% macro add(x, to=[]) %}{% set _ = to.append(x) %}{{ to }}{% endmacro %}{{ add(1) }}{{ add(2) }}{{ add(3, l) }}{{ l }}",
    "{% set _ = d.a.x.append({'y': l}) %}{{ d }}{{ d|tojson }}", "{% set _ = m[0].append(1) %}", "{{ (1, 2).append(3) }}", "{{ l.append() }}", "{{ l.append(1, 2) }}",
    "{{ l.pop() }}{{ l.pop(0) }}{{ l.pop(-1) }}{{ l }}", "{{ el.pop() }}", "{{ l.pop(3) }}", "{{ l.pop(-4) }}",
    "{{ l.pop('x') }}", "{{ l.pop(true) }}{{ l }}", "{% for x in l %}{{ x }}{% set _ = l.pop() %}{% endfor %}{{ l }}", "{{ l.pop is defined }}{{ l.extend is defined }}{{ l.insert(0, 1) }}",
    "{% set a = [1] %}{% set _ = a.append(a) %}{{ a|length }}{{ a[1][1][1][0] }}{{ 1 in a }}{% for x in a %}{{ loop.index }}{% endfor %}",
    "{{ 1 }}{{ 2 }}\n\n{{ 3 }}\n", "{{ s }}{# c #}{{ n }}", "{{ (1,\n2) }}", "{%\nif 1\n%}x{%\nendif\n%}", "{%if 1%}a{%endif%}",
    "{{ raise_exception('x') }}", "{% if 1 %}{{ raise_exception('Line\nbreak') }}{% endif %}", "{{ 'a' if }}", "{{ 1 2 }}", "{{ a b }}", "{{ ) }}", "{{ (1 }}", "{{ [1 }}", "{{ 'a }}",
    "{{ a. }}", "{{ a|b.", "{{ a|b. }}", "{{ a is b.", "{{ d[1:] }}", "{{ n[1:] }}", "{{ m|sort(attribute='zz')|length }}", "{{ a[ }}", "{{ a| }}", "{{ a is }}", "{{ f(a=1, 2) }}", "{{ f(*a, *b) }}", "{{ f(**a, b=1) }}", "{{ 1 is defined is defined }}", "{{ }}", "{{ ; }}", "{{ @ }}", "{{ a ! b }}",
    "{% for x l %}{% endfor %}", "{% for in l %}{% endfor %}", "{% set %}", "{% macro %}", "{% macro 1() %}{% endmacro %}", "{{ not }}", "{{ {1} }}", "{{ {1: } }}", "{{ a.1.2 }}", "{{ 1.2.3 }}", "{{ 01 }}",
    "{% raw %}", "{#-", "a {#", "{{ l|nope|first if 0 }}", "{{ [n|nope] if 0 else 1 }}", "{{ [n|nope if 0 else 1] }}", "{{ (n is nope) }}", "{{ s.__class__ }}", "{{ s['__class__'] }}", "{{ ''.__class__.__mro__ }}", "{{ range.__globals__ }}", "{{ d.__len__() }}",
    "{{ s.format_map(d) }}" if False else "{{ '{b}'.format(**d) }}", "{{ '{0.__class__}'.format(1) }}",
    "{{ loop }}", "{% for x in l %}{{ loop.nope }}{% endfor %}", "{% for x in l %}{{ loop.nope.x }}{% endfor %}", "{{ n.real }}" if False else "{{ n }}",
    "\u00a0{{- 1 -}}\u2003x", "é{% if 1 %}é{% endif %}é", "{% set é = 1 %}{{ é }}",
]


def main():
    env, cases = environment(), []
    lines, joined = EXPRESSIONS.strip("\n").split("\n"), []
    for line in lines:  # a backslash at the end continues the line
        if joined and joined[-1].endswith("\\") and not joined[-1].endswith("\\\\"):
            joined[-1] += "\n" + line
        else:
            joined.append(line)
    for text in ["{{ " + e + " }}" for e in joined] + TEMPLATES:
        kind, out = render(env, text, json.loads(json.dumps(VARS)))
        if kind == "ok" and " at 0x" in out:
            continue  # Python prints an address
        cases.append([text, kind, out])
    with open("tests/golden/templates/expressions.json", "w", encoding="utf-8") as f:
        json.dump({"vars": VARS, "cases": cases}, f, ensure_ascii=False, indent=0)
    print(len(cases), "cases", file=sys.stderr)


if __name__ == "__main__":
    main()
